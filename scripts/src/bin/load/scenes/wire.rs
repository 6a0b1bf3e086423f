//! The sockets of a scene, on any of the loopback's addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use nexo_schema::stream::Hello;
use nexo_scripts::account::Seat;
use nexo_scripts::http::HttpError;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, http};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::drive::DriveError;

/// tungstenite's default of 128 KiB a socket buys nothing with frames of this size.
const READ_BUFFER: usize = 8 * 1024;

/// Bytes that wait for a reader who does not read, besides those at the sender.
const NARROW: u32 = 4 * 1024;

/// Sockets that come from one address: a client has some 28,000 ports for each server.
const PER_ADDRESS: usize = 5_000;

/// An open socket.
pub(super) type Stream = WebSocketStream<TcpStream>;

/// Connects from an address of the loopback's; `number` says from which.
pub(super) async fn tcp(server: SocketAddr, number: usize) -> Result<TcpStream, DriveError> {
    connect(TcpSocket::new_v4().map_err(HttpError::from)?, server, number).await
}

/// As [`tcp`], with room for a few frames: who does not read from it has stalled soon.
pub(super) async fn narrow(server: SocketAddr, number: usize) -> Result<TcpStream, DriveError> {
    let socket = TcpSocket::new_v4().map_err(HttpError::from)?;
    socket.set_recv_buffer_size(NARROW).map_err(HttpError::from)?;
    connect(socket, server, number).await
}

async fn connect(
    socket: TcpSocket,
    server: SocketAddr,
    number: usize,
) -> Result<TcpStream, DriveError> {
    let host = u8::try_from(2 + number / PER_ADDRESS % 200).unwrap_or(2);
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0);
    socket.bind(from).map_err(HttpError::from)?;
    let stream = socket.connect(server).await.map_err(HttpError::from)?;
    stream.set_nodelay(true).map_err(HttpError::from)?;
    Ok(stream)
}

/// Opens a socket at a path, as the holder of a token.
pub(super) async fn open(
    server: SocketAddr,
    path: &str,
    token: &str,
    number: usize,
) -> Result<Stream, DriveError> {
    open_over(tcp(server, number).await?, server, path, token).await
}

/// As [`open`], over a connection that is there.
pub(super) async fn open_over(
    tcp: TcpStream,
    server: SocketAddr,
    path: &str,
    token: &str,
) -> Result<Stream, DriveError> {
    let mut request = format!("ws://{server}{path}").into_client_request().map_err(Box::new)?;
    let token = http::HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|e| Box::new(Error::HttpFormat(e.into())))?;
    request.headers_mut().insert(http::header::AUTHORIZATION, token);
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let upgraded = client_async_with_config(request, tcp, Some(config)).await;
    Ok(upgraded.map_err(Box::new)?.0)
}

/// Opens a socket that is sent what is committed from now on: in one conversation, or in all of
/// the account's.
pub(super) async fn listen(
    server: SocketAddr,
    seat: &Seat,
    conv: Option<&str>,
    number: usize,
) -> Result<Stream, DriveError> {
    let mut stream = open(server, "/ws", &seat.token, number).await?;
    stream.send(Message::text(hello(conv))).await.map_err(Box::new)?;
    loop {
        // A ring may come first.
        let text = next_text(&mut stream).await?;
        if text.contains(r#""type":"hello""#) {
            return Ok(stream);
        }
        if !text.contains(r#""type":"head""#) {
            return Err(DriveError::Stray(text.to_string()));
        }
    }
}

fn hello(conv: Option<&str>) -> String {
    let conversations = conv.map(|conv| format!(r#""conversations":["{conv}"],"#));
    let conversations = conversations.unwrap_or_default();
    let text = format!(r#"{{"type":"hello",{conversations}"window":1024,"proofs":false}}"#);
    debug_assert!(serde_json::from_str::<Hello>(&text).is_ok());
    text
}

/// The next text frame.
pub(super) async fn next_text(stream: &mut Stream) -> Result<Utf8Bytes, DriveError> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Close(frame))) => {
                return Err(DriveError::Closed(format!("{frame:?}")));
            }
            // Pings are answered by tungstenite.
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Box::new(error).into()),
            None => return Err(DriveError::Closed("without a word".into())),
        }
    }
}
