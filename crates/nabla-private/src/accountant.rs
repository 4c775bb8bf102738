//! The accounts of privacy.
