//! The bell: a WebSocket on which the relay says that there is something new.
//!
//! It carries no message. What is new is read and verified over REST, from the cursor on, so a
//! lost frame loses nothing.

use std::time::Duration;

use futures_util::StreamExt as _;
use nexo_schema::ws::Notice;
use reqwest::Method;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
};

use super::{ApiError, Member};

const PATH: &str = "/ws";
/// A bell frame is a few dozen bytes.
const MAX_FRAME: usize = 4 * 1024;
/// tungstenite's default of 128 KiB per socket is for throughput, which a bell has none of.
const READ_BUFFER: usize = 4 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// An open bell.
pub struct Bell {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// There is something new.
    New,
    /// Few one-time prekeys of this device are left.
    PrekeysLow,
    /// The connection ended; open another one.
    Closed,
}

impl Bell {
    /// Connects as this device. The proof is for this one upgrade.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn connect(member: &Member<'_>) -> Result<Self, ApiError> {
        let relay = member.relay();
        let credentials = member.credentials(&Method::GET, PATH).await?;
        let mut request =
            relay.url.socket(PATH).as_str().into_client_request().map_err(|e| broken(&e))?;
        let headers = [("Authorization", credentials.authorization), ("DPoP", credentials.dpop)];
        for (name, value) in headers {
            let Some(value) = value else { continue };
            let value = HeaderValue::from_str(&value).map_err(|_| ApiError::Encoding)?;
            request.headers_mut().insert(name, value);
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let connector = Some(Connector::Rustls(relay.tls.clone()));
        let connecting = connect_async_tls_with_config(request, Some(config), true, connector);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok((socket, _))) => Ok(Self { socket }),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(ApiError::Network("the WebSocket did not open in time".to_owned())),
        }
    }

    /// Waits for the next ring. Frames this version does not know are not rings. Dropping the
    /// future loses nothing.
    pub async fn heard(&mut self) -> Ring {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                    Ok(Notice::Head { .. }) => return Ring::New,
                    Ok(Notice::PrekeysLow { .. }) => return Ring::PrekeysLow,
                    _ => {}
                },
                // Pings are answered by tungstenite as the stream is polled.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return Ring::Closed,
            }
        }
    }
}

fn broken(error: &SocketError) -> ApiError {
    match error {
        SocketError::Http(response) => ApiError::Status(response.status().as_u16()),
        other => ApiError::Network(other.to_string()),
    }
}
