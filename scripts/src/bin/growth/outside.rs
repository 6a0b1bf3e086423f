//! The log in a nexo-server of its own: how long it takes to start, how much memory it holds,
//! and how long proofs take over HTTP.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use nexo_schema::ids::IdError;
use nexo_scripts::account::{AccountError, take_seats};
use nexo_scripts::http::{Connection, HttpError};
use nexo_scripts::process::{Process, StartError, resident};
use nexo_scripts::stats::Sample;

use crate::args::Plan;
use crate::inside::asked;
use crate::table::{Measured, Proofs};
use crate::writers::{Letter, Writers};

/// Starts measured, each round.
const STARTS: usize = 3;

/// Requests in flight.
const CLIENTS: u32 = 8;

/// Why the server did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutsideError {
    /// It does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It does not take accounts.
    #[error("registering accounts: {0}")]
    Account(#[from] AccountError),
    /// It names something in a way that it does not.
    #[error("the relay's ids: {0}")]
    Id(#[from] IdError),
    /// It does not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It answers something else than 200.
    #[error("{path} answered {status}: {body}")]
    Refused {
        /// The request.
        path: String,
        /// Its answer.
        status: u16,
        /// What it says.
        body: String,
    },
    /// Its memory is not told.
    #[error("this system does not tell the memory of a process")]
    NoMemory,
}

/// Has a server make the data directory, with accounts in it.
pub(crate) async fn populate(plan: &Plan, data: &Path) -> Result<Writers, OutsideError> {
    let server = start(plan, data)?;
    let seats = take_seats(server.address, plan.writers.into()).await?;
    Ok(Writers::new(seats, plan.payload, plan.ids)?)
}

fn start(plan: &Plan, data: &Path) -> Result<Process, StartError> {
    let mut args: Vec<OsString> = ["serve", "--data-dir"].map(Into::into).into();
    args.push(data.into());
    args.extend(["--listen", "127.0.0.1:0", "--rate-limit", "off"].map(OsString::from));
    Process::start(&plan.spawn, &args, None)
}

/// How long it takes from the command to the line that says it listens. Each but the first has
/// to look after a server that was killed.
pub(crate) fn starts(plan: &Plan, data: &Path, sample: &mut Sample) -> Result<(), OutsideError> {
    for _ in 0..STARTS {
        let begin = Instant::now();
        let server = start(plan, data)?;
        sample.took(begin.elapsed());
        drop(server);
    }
    Ok(())
}

/// Memory before and after requests of all kinds, and then proofs, on one server.
pub(crate) async fn serve(
    plan: &Plan,
    data: &Path,
    writers: &Writers,
    size: u64,
    measured: &mut Measured,
) -> Result<(), OutsideError> {
    let server = start(plan, data)?;
    let memory = || resident(server.pid()).ok_or(OutsideError::NoMemory);
    measured.memory_fresh.push(memory()?);
    let clients = (0..CLIENTS).map(|client| {
        let numbers = (client..plan.requests).step_by(CLIENTS as usize);
        mixed_requests(server.address, writers, size, numbers)
    });
    futures_util::future::try_join_all(clients).await?;
    measured.memory_used.push(memory()?);
    measured.http.add(proofs(server.address, size, plan.proofs).await?);
    Ok(())
}

/// Messages, inclusion proofs and consistency proofs, two to one to one.
async fn mixed_requests(
    address: SocketAddr,
    writers: &Writers,
    size: u64,
    numbers: impl Iterator<Item = u32>,
) -> Result<(), OutsideError> {
    let mut connection = Connection::open(address).await.map_err(HttpError::from)?;
    for number in numbers {
        let (index, from) = asked(number.into(), size);
        match number % 4 {
            0 | 1 => {
                let Letter { token, json } = writers.letter();
                let answer = connection.post("/messages", Some(token), &json).await?;
                ok("/messages", answer.status, answer.body)?;
            }
            2 => drop(get(&mut connection, &inclusion_path(index, size)).await?),
            _ => drop(get(&mut connection, &consistency_path(from, size)).await?),
        }
    }
    Ok(())
}

async fn proofs(address: SocketAddr, size: u64, count: u16) -> Result<Proofs, OutsideError> {
    let mut connection = Connection::open(address).await.map_err(HttpError::from)?;
    let mut proofs = Proofs::default();
    for number in 0..u64::from(count) {
        let (index, from) = asked(number, size);
        proofs.inclusion.took(get(&mut connection, &inclusion_path(index, size)).await?);
        proofs.consistency.took(get(&mut connection, &consistency_path(from, size)).await?);
    }
    Ok(proofs)
}

fn inclusion_path(index: u64, size: u64) -> String {
    format!("/log/inclusion?index={index}&size={size}")
}

fn consistency_path(from: u64, size: u64) -> String {
    format!("/log/consistency?from={from}&to={size}")
}

/// How long a 200 took.
async fn get(connection: &mut Connection, path: &str) -> Result<Duration, OutsideError> {
    let start = Instant::now();
    let answer = connection.get(path).await?;
    let took = start.elapsed();
    ok(path, answer.status, answer.body)?;
    Ok(took)
}

fn ok(path: &str, status: u16, body: &[u8]) -> Result<(), OutsideError> {
    if status == 200 {
        return Ok(());
    }
    let (path, body) = (path.to_owned(), String::from_utf8_lossy(body).into_owned());
    Err(OutsideError::Refused { path, status, body })
}
