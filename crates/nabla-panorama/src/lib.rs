//! 360-degree panoramas: spherical geometry, metrics, and OmniSSR super-resolution.
