//! Support for the measurements.
