//! Reads merge memtables and redb.
