//! The encryption core from outside: published vectors through the functions in
//! use, and the attacks of design/e2ee.md 4 that concern messages, one-shot and in
//! sessions. Test names begin with the attack's number there. `corpus` replays the fuzzer's seeds,
//! and `seeds` makes them.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod corpus;
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
mod seeds;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod simulation;
