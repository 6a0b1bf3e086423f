//! The encryption core from outside: published vectors through the functions in
//! use, and the attacks of design/e2ee.md 4 that concern messages, one-shot and in
//! sessions. Test names begin with the attack's number there.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod curve_keys;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod management;
#[cfg(test)]
mod node;
#[cfg(test)]
mod primitives;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod simulation;
