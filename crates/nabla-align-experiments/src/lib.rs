//! The experiments that measure the claims about the methods of `nabla-align`, with one file per method.
