//! Real files: locks, identities, formats, and what stock redb makes of them.
