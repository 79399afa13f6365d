//! The data port of a queue-proxy under bad input. What well-behaved clients and apps get is
//! tested elsewhere; here it only has to go on.

#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/conformance.rs"]
mod conformance;
#[path = "hostile/endless.rs"]
mod endless;
#[path = "hostile/limits.rs"]
mod limits;
#[path = "hostile/smuggling.rs"]
mod smuggling;
