//! The scripted node and its model, under the name that the tests of this crate know.

pub(super) use crate::testing::{
    IDENTITY, Model, Random, Sink, WORKERS, World, birth, command, contents, options, replica, run,
};
