//! The bare loop's two corridors: a REST route and a WebSocket, as thin as they can be.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use nexo_schema::bytes::{from_base64, to_base64};
use nexo_schema::http::{Item, SendRequest, SendResponse};
use nexo_schema::ids::{ConvId, DeviceId, MsgId};
use nexo_schema::limits::MAX_BODY;
use nexo_schema::ws::{Cipher, Envelope, Submit};
use rocket::data::{Data, ToByteUnit as _};
use rocket::fairing::AdHoc;
use rocket::futures::stream::FuturesUnordered;
use rocket::futures::{SinkExt as _, StreamExt as _};
use rocket::http::Status;
use rocket::serde::json::Json;
use rocket::{State, get, post, routes};
use rocket_ws::stream::DuplexStream;
use rocket_ws::{Channel, Message as Frame, WebSocket};
use serde_json::value::RawValue;

use super::store::{Message, Store};
use super::writer::{Door, Placed};
use super::{BareArgs, BareError, device};

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
        .mount("/", routes![post_message, connect])
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

/// A message, and what its acknowledgement repeats.
struct Letter {
    conv: ConvId,
    msg_id: MsgId,
    cipher: Vec<u8>,
    ad: Box<RawValue>,
}

impl Letter {
    fn read(conv: ConvId, msg_id: Option<MsgId>, cipher: &str, ad: Box<RawValue>) -> Option<Self> {
        Some(Self { conv, msg_id: msg_id?, cipher: from_base64(cipher).ok()?, ad })
    }

    async fn submit(self, door: &Door) -> Option<(Self, Placed)> {
        let placed = door
            .submit(Message {
                conv: self.conv.0,
                msg_id: self.msg_id.to_string(),
                device: device(&self.conv),
                cipher: self.cipher.clone(),
                ad: self.ad.get().as_bytes().to_vec(),
            })
            .await?;
        Some((self, placed))
    }
}

#[post("/messages", data = "<data>")]
async fn post_message(data: Data<'_>, door: &State<Door>) -> Result<Json<SendResponse>, Status> {
    let read = data.open(MAX_BODY.bytes()).into_bytes().await;
    let bytes = read.map_err(|_| Status::BadRequest)?.into_inner();
    let request: SendRequest = serde_json::from_slice(&bytes).map_err(|_| Status::BadRequest)?;
    let SendRequest { conv_id, cipher, ad, msg_id, .. } = request;
    let letter = Letter::read(conv_id, msg_id, &cipher, ad).ok_or(Status::BadRequest)?;
    let (letter, placed) = letter.submit(door).await.ok_or(Status::ServiceUnavailable)?;
    let sender_device = DeviceId::parse(&device(&letter.conv)).map_err(|_| Status::BadRequest)?;
    let message = Item {
        msg_id: letter.msg_id,
        conv_id: letter.conv,
        sender_device,
        cipher: to_base64(&letter.cipher),
        ad: letter.ad,
        ts: placed.time,
        sth_index: placed.place,
        native: None,
        tombstone: None,
        inclusion: None,
    };
    Ok(Json(SendResponse { ok: true, message, duplicate: false, receipt: None }))
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

async fn talk(mut stream: DuplexStream, door: &Door) -> Option<()> {
    let mut waiting = FuturesUnordered::new();
    loop {
        rocket::tokio::select! {
            frame = stream.next() => match frame?.ok()? {
                Frame::Text(text) => waiting.push(read(&text)?.submit(door)),
                Frame::Close(_) => return None,
                _ => {}
            },
            Some(done) = waiting.next() => {
                let mut ready = Some(done);
                // All that one batch answered goes out in one write.
                while let Some(done) = ready {
                    let (letter, placed) = done?;
                    stream.feed(Frame::Text(echo(letter, placed)?)).await.ok()?;
                    ready = rocket::futures::FutureExt::now_or_never(waiting.next()).flatten();
                }
                stream.flush().await.ok()?;
            }
        }
    }
}

fn read(text: &str) -> Option<Letter> {
    let Submit { conv_id, msg_id, cipher, ad, .. } = serde_json::from_str(text).ok()?;
    let Cipher::Text(cipher) = cipher else { return None };
    Letter::read(conv_id, msg_id, &cipher, ad?)
}

fn echo(letter: Letter, placed: Placed) -> Option<String> {
    let sender_device = DeviceId::parse(&device(&letter.conv)).ok()?;
    serde_json::to_string(&Envelope {
        ver: 1,
        conv_id: letter.conv,
        msg_id: letter.msg_id,
        sender_device,
        cipher: Cipher::Text(to_base64(&letter.cipher)),
        ad: letter.ad,
        ts: placed.time,
        sth_index: placed.place,
        target_msg_id: None,
    })
    .ok()
}
