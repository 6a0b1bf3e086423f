//! Who is compared with whom, and the measuring of a case on each of them in turns.

use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

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

/// Measures one case on all contenders in turns, so that a machine that slows down slows each
/// of them. One sample a contender.
///
/// # Errors
/// [`ContestError`] of the first that fails.
pub(crate) async fn measure(
    plan: &Plan,
    contenders: &[Contender],
    case: Shape,
) -> Result<Vec<Sample>, ContestError> {
    let phase = Phase {
        warm_up: Duration::from_secs(plan.warmup),
        measured: plan.seconds(),
        payload: plan.payload,
    };
    let mut samples = vec![Sample::default(); contenders.len()];
    for round in 0..plan.rounds {
        for turn in turns::order(contenders.len(), round) {
            let Contender { name, target, .. } = &contenders[turn];
            progress(format_args!("{case}, {name}, round {} ...", round + 1));
            let measured = drive(target, case, phase).await;
            let sample = measured.map_err(|source| ContestError { case, name, source })?;
            samples[turn].add(sample);
        }
    }
    Ok(samples)
}

/// Says on stderr what goes on; a terminal that is gone is no reason to stop.
pub(crate) fn progress(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}
