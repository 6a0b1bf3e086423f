//! nexo-cli's accounts of several devices: linking, revoking, issuing, recovering, pins, and the
//! watch over the own account (design/e2ee.md 2.5, 2.6, 2.21, 2.22; attacks E4, E14, E15, F10).
//!
//! | file | asks |
//! |---|---|
//! | `changed` | can a device's rights be changed, and an account be ended |
//! | `linked` | does a device come in by its code, and get what its account gets |
//! | `ended` | is a revoked device's end an end for its programs, and does recovery end them all |
//! | `scripts` | can a script send with a line that a person issued, and nothing more |
//! | `names` | is a handle only ever the account that somebody named |
//! | `protect` | is a home closed to who has not its key or passphrase, and can that be changed |
//! | `state` | is a copied or restored home refused, and can an identity move |
//! | `watch` | is a device that nobody confirmed seen |

mod changed;
mod ended;
mod linked;
mod names;
mod protect;
mod scripts;
mod state;
mod watch;

use crate::harness::shell::{Follower, Person};
use crate::harness::{Server, text};

/// The fingerprint of a person's account.
fn fingerprint(person: &Person) -> String {
    person.nexo(&["fingerprint"]).line().to_owned()
}

/// Links another home to a person's account.
pub(crate) fn link(server: &Server, owner: &Person, handle: &str, caps: &str) -> Person {
    linked(Person::at(server), owner, handle, caps)
}

/// Links this home to a person's account.
pub(crate) fn linked(new: Person, owner: &Person, handle: &str, caps: &str) -> Person {
    let expect = fingerprint(owner);
    let args = ["device", "link", handle, "--expect", &expect, "--name", "another"];
    let linking = Follower::start(&mut new.command(&args));
    let code = linking.line();
    let offered = owner.nexo(&["device", "approve", &code, "--caps", caps]);
    assert!(offered.line().ends_with(" another"), "{offered:?}");
    assert_eq!(linking.line(), format!("joined {handle} {expect}"));
    // Its prekeys are at the relay by then.
    new
}

/// The device id of a home.
pub(crate) fn device(person: &Person) -> String {
    text(&person.nexo(&["whoami", "--json"]).object()["device_id"])
}
