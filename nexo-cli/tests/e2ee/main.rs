//! The encryption core from outside: published vectors through the functions in
//! use, and the attacks of design/e2ee.md 4 that concern a one-shot message. Test
//! names begin with the attack's number there.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod curve_keys;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod primitives;
