//! Who is compared with whom, and the measuring of a case on each of them in turns.

use std::fmt;
use std::io::{self, Write as _};

use nexo_scripts::stats::Sample;
use nexo_scripts::turns;

use crate::args::Plan;
use crate::drive::{DriveError, Phase, Target, drive};
use crate::shape::Shape;

/// Somebody who takes part.
#[derive(Debug)]
pub(crate) struct Contender {
    /// What the table calls it.
    pub(crate) name: &'static str,
    /// Its servers.
    pub(crate) target: Target,
    /// Whom it is compared with: the number of a contender before it.
    pub(crate) against: Option<usize>,
}

/// Why a case has no figures.
#[derive(Debug, thiserror::Error)]
#[error("{case}, {name}: {source}")]
pub(crate) struct ContestError {
    case: Shape,
    name: &'static str,
    source: DriveError,
}

/// One round of a case: each contender in its turn, so that a machine that slows down slows all
/// of them. One sample a contender.
///
/// # Errors
/// [`ContestError`] of the first that fails.
pub(crate) async fn play(
    plan: &Plan,
    contenders: &[Contender],
    case: Shape,
    round: u32,
) -> Result<Vec<Sample>, ContestError> {
    let phase = Phase::of(plan);
    let mut samples = vec![Sample::default(); contenders.len()];
    for turn in turns::order(contenders.len(), round) {
        let Contender { name, target, .. } = &contenders[turn];
        progress(format_args!("{case}, {name}, round {} ...", round + 1));
        let measured = drive(target, case, phase).await;
        samples[turn] = measured.map_err(|source| ContestError { case, name, source })?;
    }
    Ok(samples)
}

/// Says on stderr what goes on; a terminal that is gone is no reason to stop.
pub(crate) fn progress(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}
