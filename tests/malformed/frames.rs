//! Frames that break the protocol below JSON. What is wrong in JSON is in `holes/sockets`.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::Stage;
use crate::harness::Socket;
use crate::harness::plain::frame;

#[tokio::test]
async fn a_frame_that_breaks_the_protocol_is_answered_with_a_close_code() {
    let stage = Stage::new().await;
    // RFC 6455 5.2: FIN and opcode, mask bit and length, a mask of zeros, payload.
    let whole = |opcode: u8, payload: &[u8]| {
        let length = match u8::try_from(payload.len()) {
            Ok(length @ 0..=125) => vec![0x80 | length],
            _ => [&[0x80 | 126][..], &u16::try_from(payload.len()).unwrap().to_be_bytes()].concat(),
        };
        [&[0x80 | opcode][..], &length, &[0; 4], payload].concat()
    };
    // 7.4.1: 1002 protocol error, 1007 text that is not UTF-8.
    for (broken, code, what) in [
        (whole(1, b"\"\xff\xfe\""), 1007, "text that is not UTF-8"),
        (whole(3, b"x"), 1002, "a reserved opcode"),
        (whole(11, b"x"), 1002, "a reserved control opcode"),
        (whole(0, b"x"), 1002, "a continuation of nothing"),
        (whole(9, &[b'x'; 126]), 1002, "a ping that is too long"),
        (vec![0xf1, 0x81, 0, 0, 0, 0, b'x'], 1002, "reserved bits"),
        (vec![0x81, 0x01, b'x'], 1002, "a frame that is not masked"),
    ] {
        let mut socket = stage.alice.socket(&stage.conv).await;
        socket.send_raw(&broken).await;
        assert_eq!(socket.closed().await, code, "{what}");
    }
    stage.untouched().await;
}

#[tokio::test]
async fn a_message_in_fragments_is_one_message() {
    let stage = Stage::new().await;
    let mut socket = stage.alice.socket(&stage.conv).await;
    let text = frame(&stage.conv, "m-1", "in two parts").to_string();
    let (head, tail) = text.split_at(text.len() / 2);
    let part = |bytes: &str, code, last| {
        Message::Frame(Frame::message(bytes.as_bytes().to_vec(), OpCode::Data(code), last))
    };
    socket.send_any(part(head, Data::Text, false)).await;
    socket.send_any(part(tail, Data::Continue, true)).await;
    assert_eq!(socket.next().await["msg_id"], "m-1");
    stage.works().await;
}

#[tokio::test]
async fn a_message_is_bounded_in_fragments_too() {
    let stage = Stage::new().await;
    let mut socket = stage.alice.socket(&stage.conv).await;
    let part = |code| Message::Frame(Frame::message(vec![b' '; 60_000], OpCode::Data(code), false));
    socket.send_any(part(Data::Text)).await;
    for _ in 0..4 {
        socket.send_any(part(Data::Continue)).await;
    }
    assert_eq!(socket.closed().await, 1009);
    stage.untouched().await;
}

#[tokio::test]
async fn parameters_of_a_socket_that_do_not_parse() {
    let stage = Stage::new().await;
    let token = stage.alice.token();
    let conv = &stage.conv;
    for (query, code) in [
        (format!("conv_id=x&token={token}"), 4400),
        (format!("conv_id=&token={token}"), 4400),
        (format!("conv_id={}&token={token}", conv.to_uppercase()), 4400),
        (format!("conv_id={conv}0&token={token}"), 4400),
        (format!("conv_id={conv}%00&token={token}"), 4400),
        (format!("conv_id={conv}&after=-1&token={token}"), 4400),
        (format!("conv_id={conv}&after=x&token={token}"), 4400),
        (format!("conv_id={conv}&after=&token={token}"), 4400),
        (format!("after=99999999999999999999&token={token}"), 4400),
        (format!("conv_id=x&token={token}x"), 4401),
        (format!("conv_id={conv}&token={}", "t".repeat(5000)), 4401),
    ] {
        let mut socket = Socket::open(stage.server.url(), &query, &[]).await;
        assert_eq!(socket.closed().await, code, "{query}");
    }
    // A cursor ahead of the log waits for it.
    let ahead = format!("conv_id={conv}&after=3&token={token}");
    let mut socket = Socket::open(stage.server.url(), &ahead, &[]).await.settled().await;
    stage.alice.say(conv, "three").await;
    let four = stage.alice.say(conv, "four").await;
    assert_eq!(socket.next().await["sth_index"], four["sth_index"]);
    stage.works().await;
}

#[tokio::test]
async fn frames_with_fields_of_another_kind_end_the_socket_or_are_refused() {
    let stage = Stage::new().await;
    for field in ["ver", "conv_id", "msg_id", "cipher", "ad", "packets", "dseq"] {
        for wrong in [json!(true), json!(-1), json!(1.5), json!([1]), json!("\u{0}é")] {
            let mut socket = stage.alice.socket(&stage.conv).await;
            let mut bad = frame(&stage.conv, "m-1", "x");
            bad[field] = wrong.clone();
            socket.send(&bad).await;
            // Then a frame that is no envelope: whatever came before, this ends it.
            socket.send_any(Message::text("garbage")).await;
            assert_eq!(socket.closed().await, 4400, "{field} {wrong}");
        }
    }
    stage.untouched().await;
}
