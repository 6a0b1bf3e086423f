//! The files of a log over HTTP, by the web framework that nexo-server has.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use nexo_schema::bytes::to_base64;
use rocket::fs::{FileServer, Options};
use rocket::serde::json::{Json, Value, json};
use rocket::{Config, Shutdown, State, get, routes};
use tokio::runtime::Runtime;

use crate::proof::Tree;

/// As nexo-server answers; 404 for sizes that the files do not have.
#[get("/log/consistency?<from>&<to>")]
fn consistency(from: u64, to: u64, folder: &State<PathBuf>) -> Option<Json<Value>> {
    let asked = 1 <= from && from <= to;
    let proof = asked.then(|| Tree::new(folder, to).consistency(from).ok())??;
    let hashes: Vec<_> = proof.iter().map(|hash| to_base64(hash)).collect();
    Some(Json(json!({ "from": from, "to": to, "hashes": hashes })))
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebError {
    /// No port or runtime.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Rocket does not start.
    #[error("{0}")]
    Rocket(#[from] Box<rocket::Error>),
}

/// A web server, until it is dropped.
pub(crate) struct Web {
    port: u16,
    shutdown: Shutdown,
    /// Runs the server; dropped after the shutdown was asked for.
    _runtime: Runtime,
}

impl Web {
    /// Serves a folder on a free port of this machine.
    pub(crate) fn of(folder: &Path) -> Result<Self, WebError> {
        // Taken and given back; nothing else on this machine asks for one meanwhile.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config =
            Config { port, log_level: rocket::config::LogLevel::Off, ..Config::release_default() };
        let files = FileServer::new(folder, Options::None);
        let runtime = Runtime::new()?;
        let rocket = rocket::custom(config).manage(folder.to_owned()).mount("/", files);
        let rocket =
            runtime.block_on(rocket.mount("/", routes![consistency]).ignite()).map_err(Box::new)?;
        let shutdown = rocket.shutdown();
        runtime.spawn(rocket.launch());
        let web = Self { port, shutdown, _runtime: runtime };
        // Until it accepts, connecting is refused at once.
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            std::thread::yield_now();
        }
        Ok(web)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shutdown.clone().notify();
    }
}
