//! Transports on real loopback sockets. Every wait is for an event, with a deadline that fails the test.

#![cfg(test)]

mod bulk;
mod conformance;
mod hostile;
mod links;
mod logs;
mod parts;
mod refusals;
mod renewals;
mod requests;
