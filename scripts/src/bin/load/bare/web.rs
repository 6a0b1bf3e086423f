//! The bare loop's two corridors, a REST route and a WebSocket, as thin as they can be; and beside
//! them an echo, which is thinner.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use nexo_schema::http::SendResponse;
use nexo_schema::limits::MAX_BODY;
use rocket::data::{Data, ToByteUnit as _};
use rocket::fairing::AdHoc;
use rocket::futures::stream::FuturesUnordered;
use rocket::futures::{SinkExt as _, StreamExt as _};
use rocket::http::Status;
use rocket::serde::json::Json;
use rocket::{State, get, post, routes};
use rocket_ws::stream::DuplexStream;
use rocket_ws::{Channel, Message as Frame, WebSocket};

use super::frames::Letter;
use super::store::Store;
use super::writer::{Door, Placed};
use super::{BareArgs, BareError};

/// Serves until the process is killed.
pub(super) fn serve(args: &BareArgs) -> Result<(), BareError> {
    let door = Door::open(Store::create(&args.dir, args.seats)?)?;
    let config = rocket::Config {
        address: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        ident: rocket::config::Ident::none(),
        log_level: rocket::log::LogLevel::Off,
        cli_colors: false,
        ..rocket::Config::default()
    };
    let rocket = rocket::custom(config)
        .manage(door)
        .mount("/", routes![post_message, connect, echo])
        .attach(AdHoc::on_liftoff("announce", |rocket| Box::pin(async { announce(rocket) })));
    rocket::execute(rocket.launch())
        .map(drop)
        .map_err(|e| BareError::Rocket(e.pretty_print().to_string()))
}

fn announce(rocket: &rocket::Rocket<rocket::Orbit>) {
    let address = SocketAddr::new(rocket.config().address, rocket.config().port);
    // Not println: it panics when nobody reads.
    let _ = writeln!(std::io::stdout(), "bare loop listening on http://{address}");
}

#[post("/messages", data = "<data>")]
async fn post_message(data: Data<'_>, door: &State<Door>) -> Result<Json<SendResponse>, Status> {
    let read = data.open(MAX_BODY.bytes()).into_bytes().await;
    let bytes = read.map_err(|_| Status::BadRequest)?.into_inner();
    let letter = Letter::of_request(&bytes).ok_or(Status::BadRequest)?;
    let (letter, placed) = submit(letter, door).await.ok_or(Status::ServiceUnavailable)?;
    letter.response(placed).map(Json).ok_or(Status::BadRequest)
}

/// The letter back, with its place once it is durable.
async fn submit(letter: Letter, door: &Door) -> Option<(Letter, Placed)> {
    let placed = door.submit(letter.message()).await?;
    Some((letter, placed))
}

#[get("/ws")]
fn connect(ws: WebSocket, door: &State<Door>) -> Channel<'static> {
    let door = door.inner().clone();
    ws.channel(move |stream| {
        Box::pin(async move {
            // Ends when the client leaves, or sends what it should not.
            let _ = talk(stream, &door).await;
            Ok(())
        })
    })
}

/// The barest socket there is: each frame comes back, those that are there at once in one write.
#[get("/echo")]
fn echo(ws: WebSocket) -> Channel<'static> {
    ws.channel(|mut stream| {
        Box::pin(async move {
            while let Some(frame) = stream.next().await {
                let mut ready = Some(frame);
                while let Some(frame) = ready {
                    match frame? {
                        Frame::Text(text) => stream.feed(Frame::Text(text)).await?,
                        Frame::Close(_) => return Ok(()),
                        _ => {}
                    }
                    ready = rocket::futures::FutureExt::now_or_never(stream.next()).flatten();
                }
                stream.flush().await?;
            }
            Ok(())
        })
    })
}

async fn talk(mut stream: DuplexStream, door: &Door) -> Option<()> {
    let mut waiting = FuturesUnordered::new();
    loop {
        rocket::tokio::select! {
            frame = stream.next() => match frame?.ok()? {
                Frame::Text(text) => waiting.push(submit(Letter::of_frame(&text)?, door)),
                Frame::Close(_) => return None,
                _ => {}
            },
            Some(done) = waiting.next() => {
                let mut ready = Some(done);
                // All that one batch answered goes out in one write.
                while let Some(done) = ready {
                    let (letter, placed) = done?;
                    stream.feed(Frame::Text(letter.frame(placed)?)).await.ok()?;
                    ready = rocket::futures::FutureExt::now_or_never(waiting.next()).flatten();
                }
                stream.flush().await.ok()?;
            }
        }
    }
}
