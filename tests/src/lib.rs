//! The node. (Skeleton.)
