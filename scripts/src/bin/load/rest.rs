//! A REST client: keep-alive, one request in flight.

use std::time::Instant;

use serde::Deserialize;

use crate::drive::{DriveError, Worker};
use crate::shape::Placed;
use nexo_scripts::http::{Connection, HttpError};
use nexo_scripts::stats::Sample;

/// The part of the answer that is looked at.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    message: Placed<'a>,
}

/// Posts until the window shuts.
pub(crate) async fn work(worker: Worker) -> Result<Sample, DriveError> {
    let Worker { address, seat, window, letters } = worker;
    let mut connection = Connection::open(address).await.map_err(HttpError::from)?;
    let mut sample = Sample::default();
    for number in 0u64.. {
        if !window.is_open() {
            break;
        }
        let letter = letters.write(number);
        let sent = Instant::now();
        let answer = connection.post("/messages", Some(&seat.token), &letter).await?;
        if answer.status != 200 {
            let (status, body) = (answer.status, String::from_utf8_lossy(answer.body));
            sample.refused(|| format!("{status} {body}"));
            continue;
        }
        sample.acked(window, sent, place(answer.body, &letter)?);
    }
    Ok(sample)
}

/// Where the message is; an answer that names another one is none.
fn place(body: &[u8], letter: &str) -> Result<u64, DriveError> {
    let stray = || DriveError::Stray(String::from_utf8_lossy(body).into_owned());
    let Answer { message } = serde_json::from_slice(body).map_err(|_| stray())?;
    match (message.msg_id, message.sth_index) {
        (Some(id), Some(place)) if letter.contains(id) => Ok(place),
        _ => Err(stray()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_about_this_message_has_a_place() {
        let about =
            |id: &str| format!(r#"{{"ok":true,"message":{{"msg_id":"{id}","sth_index":9}}}}"#);
        assert_eq!(place(about("m1").as_bytes(), r#"{"msg_id":"m1"}"#).unwrap(), 9);
        assert!(place(about("m2").as_bytes(), r#"{"msg_id":"m1"}"#).is_err());
        assert!(place(br#"{"ok":true,"message":{"msg_id":"m1"}}"#, "m1").is_err());
        assert!(place(b"{}", "m1").is_err());
    }
}
