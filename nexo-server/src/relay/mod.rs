//! The WebSocket endpoint: one `select!` over peer, room, tickets, ping and shutdown.
//!
//! `?conv_id=` is the seed's socket: envelopes both ways, in one conversation. Without it the
//! socket rings, and once the client says hello it is sent the messages themselves, against
//! acknowledgements. On all a client may `send` and is answered. The database is the queue: a
//! socket holds a cursor, takes the committed batches that its room hands it, and reads the
//! database where it was handed none. A gap cannot occur (`follow.rs` says why), and a slow
//! reader waits for itself alone.
//!
//! | file | is |
//! |---|---|
//! | `rooms` | who waits for what, and what they are told |
//! | `batch` | what they are handed, and how much of it is kept |
//! | `stream` | the place of a socket that said hello |
//! | `pour` | what that is sent |
//! | `window` | what it was sent and has not acknowledged |
//! | `cursors` | what it acknowledged, on its way to the database |
//! | `follow` | a reader's place in a conversation |
//! | `frames` | text frames to items, and back |
//! | `line` | the wire: the next event, frames on their way out |
//! | `socket` | one connection, event by event |

mod batch;
mod cursors;
mod follow;
mod frames;
mod line;
mod pour;
mod rooms;
mod socket;
mod stream;
mod window;

use std::future::ready;

use nexo_schema::error::ErrorCode;
use nexo_schema::ids::{ConvId, IdError};
use nexo_schema::limits::MAX_BODY;
use nexo_schema::sigchain::caps;
use nexo_schema::ws::{CLOSE_FORBIDDEN, CLOSE_MALFORMED, CLOSE_UNAUTHORIZED};
use rocket::request::{FromRequest, Outcome};
use rocket::{Request, Shutdown, State, get};
use rocket_ws::frame::{CloseCode, CloseFrame};
use rocket_ws::stream::DuplexStream;
use rocket_ws::{Channel, Config, WebSocket};

pub use cursors::Cursors;
use line::SEND_WITHIN;
use rocket::tokio::time::timeout;
pub use rooms::Rooms;
use socket::Socket;

use crate::App;
use crate::error::ApiError;
use crate::http::guard::{bearer, check_binding, device_of, doubted};
use crate::http::query::number;
use crate::store::Device;

/// Bytes of frames that are gathered into one write.
const WRITE_AT: usize = 64 * 1024;

/// Bytes of frames a socket may hold unsent. Never reached: one that holds [`WRITE_AT`] and could
/// not send them waits for its reader before the next frame.
const WRITE_BUFFER: usize = WRITE_AT + 2 * MAX_BODY;

/// Who knocks: the device, or the reason it is not let in. A browser sees no status of a
/// refused upgrade, so the seed accepts and then closes with a code.
pub struct Knock(Result<Device, ApiError>);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Knock {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        let device = knock(request).await;
        Outcome::Success(Self(device.map_err(|error| match request.rocket().state::<App>() {
            Some(app) => doubted(app, request, error),
            None => error,
        })))
    }
}

async fn knock(request: &Request<'_>) -> Result<Device, ApiError> {
    let app = request
        .rocket()
        .state::<App>()
        .ok_or_else(|| ApiError::internal("the app is not attached"))?;
    let in_query = request.query_value::<&str>("token").and_then(Result::ok);
    let token = bearer(request)
        .or(in_query)
        .ok_or_else(|| ApiError::new(ErrorCode::Unauthorized, "no access token"))?;
    let known = device_of(app, token).await?;
    check_binding(app, request, token, &known).await?;
    Ok(known.0)
}

/// The socket. `token` is read by [`Knock`]; it is named here so that the route owns it.
#[get("/ws?<conv_id>&<after>&<token>")]
pub fn connect(
    ws: WebSocket,
    knock: Knock,
    conv_id: Option<&str>,
    after: Option<&str>,
    token: Option<&str>,
    app: &State<App>,
    shutdown: Shutdown,
) -> Channel<'static> {
    let _ = token;
    let config = Config {
        max_message_size: Some(MAX_BODY),
        max_frame_size: Some(MAX_BODY),
        write_buffer_size: WRITE_AT,
        max_write_buffer_size: WRITE_BUFFER,
        ..Config::default()
    };
    let app = app.inner().clone();
    let newest = app.log.head().size;
    let after = number("after", after).map(|after| after.unwrap_or(newest));
    let wish = (conv_id.map(ConvId::parse).transpose(), after);
    ws.config(config).channel(move |stream| {
        // A task of its own: Rocket's keeps the request, and the buffer it was read into.
        app.sockets.spawn(serve(app.clone(), knock.0, wish, stream, shutdown));
        Box::pin(ready(Ok(())))
    })
}

/// The conversation, if one was named, and the position to go on from.
type Wish = (Result<Option<ConvId>, IdError>, Result<u64, ApiError>);

async fn serve(
    app: App,
    knock: Result<Device, ApiError>,
    wish: Wish,
    mut stream: DuplexStream,
    shutdown: Shutdown,
) {
    let _open = app.metrics.open_socket();
    let refusal = match (knock, wish) {
        (Err(error), _) => refused(&error),
        (Ok(_), (Err(_), _)) => (CLOSE_MALFORMED, "conv_id: expected 64 hex digits"),
        (Ok(_), (_, Err(_))) => (CLOSE_MALFORMED, "after: expected a whole number"),
        (Ok(device), (Ok(conv), Ok(after))) => match admit(&app, &device, conv).await {
            Ok(()) => return Socket::new(app, device, conv, after).run(stream, shutdown).await,
            Err(error) => refused(&error),
        },
    };
    let (code, reason) = refusal;
    close(&mut stream, CloseCode::from(code), reason).await;
}

fn refused(error: &ApiError) -> (u16, &'static str) {
    match error.problem().code {
        ErrorCode::Unauthorized | ErrorCode::DpopInvalid => {
            (CLOSE_UNAUTHORIZED, "the token is not valid")
        }
        ErrorCode::Forbidden => (CLOSE_FORBIDDEN, "not a participant of the conversation"),
        _ => (u16::from(CloseCode::Again), "try again later"),
    }
}

/// A conversation is shown to devices that may be written to. A socket without one takes what
/// is sent from any.
async fn admit(app: &App, device: &Device, conv: Option<ConvId>) -> Result<(), ApiError> {
    match conv {
        Some(_) if !device.may(caps::RECV) => {
            Err(ApiError::new(ErrorCode::Forbidden, "this device sends and does not read"))
        }
        Some(conv) => app.participant(conv, device).await,
        None => Ok(()),
    }
}

/// Says why and hangs up. A peer that does not read it is gone already.
async fn close(stream: &mut DuplexStream, code: CloseCode, reason: &'static str) {
    let closing = stream.close(Some(CloseFrame { code, reason: reason.into() }));
    let _ = timeout(SEND_WITHIN, closing).await;
}
