//! The native Flotilla client: one QUIC connection with mutual TLS carries many outstanding requests. It reconnects
//! by itself, to another endpoint if need be, and never guesses: a write whose answer was lost is [`Error::Unknown`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use flotilla_client::{Client, ClientOptions, Tls};
//! let tls = Tls::from_files("ca.crt".as_ref(), "client.crt".as_ref(), "client.key".as_ref())?;
//! let client = Client::connect(ClientOptions::new(["127.0.0.1:7400"], tls)).await?;
//! client.put(b"greeting", b"hello").await?;
//! let found = client.get(b"greeting").await?;
//! assert_eq!(found.map(|found| found.value), Some("hello".into()));
//! # Ok(()) }
//! ```

mod client;
mod dial;
mod error;
mod frames;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod limits;
mod link;
mod pool;
pub mod protocol;
mod tls;

pub use client::{Client, ClientOptions, Condition, Found, Page, Swapped, Write};
pub use error::{ConnectError, Error};
pub use pool::Pool;
pub use protocol::{NodeRow, RangeRow, Reason, Status};
pub use tls::{Tls, TlsError};
