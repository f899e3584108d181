//! The client and server of Likeness as one binary.
