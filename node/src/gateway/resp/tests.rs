//! The gateway as a whole, without sockets.
