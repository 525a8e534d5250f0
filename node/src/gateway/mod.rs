//! Protocols: bytes to requests and back, nothing else. `resp` (Redis), `native` (QUIC), `http` (metrics, health).
pub mod http;
pub mod native;
pub mod resp;
