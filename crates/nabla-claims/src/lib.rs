//! The experiments that measure each method's published claim.
