//! The description of this API for programs: an OpenAPI 3.1 document, as it stands in `schema`.
//!
//! It is written by hand, not derived: PROTOCOL.md is the law and the handlers are its code, and
//! the tests below hold the document to both. Who adds a route, a query parameter, a field or an
//! error code and not its description finds one of them red. `schema/ws.schema.json` describes
//! the frames of the socket and is held to `nexo_schema::ws` here as well; it is not served.

use rocket::get;
use rocket::http::Header;
use rocket::response::Responder;

use super::headers::Public;

/// The document, as served.
const DOCUMENT: &str = include_str!("../../../schema/openapi.json");

/// It changes when the relay is updated, and then no reader needs to know at once.
const FOR_AN_HOUR: &str = "public, max-age=3600";

/// A JSON text that is part of the program.
#[derive(Responder)]
#[response(content_type = "json")]
pub(super) struct Document {
    body: &'static str,
    caching: Header<'static>,
}

#[get("/openapi.json")]
pub(super) fn document() -> Public<Document> {
    Public(Document { body: DOCUMENT, caching: Header::new("Cache-Control", FOR_AN_HOUR) })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use nexo_schema::error::{ErrorCode, PROBLEM_JSON, Problem};
    use nexo_schema::http::*;
    use nexo_schema::ids::{AccountId, ConvId, CursorName, DeviceId, Handle, MsgId};
    use nexo_schema::limits::{
        DEFAULT_PAGE, DEFAULT_WINDOW, MAX_BODY, MAX_CIPHER, MAX_ONE_TIME_PREKEYS, MAX_PACKET,
        MAX_PACKETS, MAX_PAGE, MAX_PREKEY_UPLOAD, MAX_SUBSCRIPTIONS, MAX_WINDOW,
    };
    use nexo_schema::stream::{Control, Delete, Hello, Push, PushKind};
    use nexo_schema::ws::{
        Ask, CLOSE_FORBIDDEN, CLOSE_MALFORMED, CLOSE_UNAUTHORIZED, Cipher, Envelope, Farewell,
        Notice, Submit,
    };
    use rocket::http::Status;
    use rocket::local::blocking::Client;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::http::headers::SecurityHeaders;

    type Names = BTreeSet<String>;

    const FRAMES: &str = include_str!("../../../schema/ws.schema.json");

    fn openapi() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// What a `$ref` within `root` stands for; any other value stands for itself.
    fn resolve<'v>(root: &'v Value, value: &'v Value) -> &'v Value {
        let Some(target) = value["$ref"].as_str() else { return value };
        let pointer = target.strip_prefix('#').expect("references stay in the file");
        resolve(root, root.pointer(pointer).unwrap_or_else(|| panic!("{target} is nowhere")))
    }

    fn names<'v>(values: impl IntoIterator<Item = &'v Value>) -> Names {
        values.into_iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    }

    fn keys(object: &Value) -> Names {
        object.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    }

    fn list(value: &Value) -> &[Value] {
        value.as_array().map_or(&[], Vec::as_slice)
    }

    // --- serving ---

    #[test]
    fn the_document_is_served_as_it_stands() {
        let config = rocket::Config {
            log_level: rocket::config::LogLevel::Off,
            ..rocket::Config::debug_default()
        };
        let rocket =
            rocket::custom(config).mount("/", rocket::routes![document]).attach(SecurityHeaders);
        let client = Client::untracked(rocket).unwrap();
        let response = client.get("/openapi.json").dispatch();
        assert_eq!(response.status(), Status::Ok);
        let header = |name| response.headers().get_one(name);
        assert_eq!(header("Content-Type"), Some("application/json"));
        assert_eq!(header("Cache-Control"), Some(FOR_AN_HOUR));
        assert_eq!(header("Access-Control-Allow-Origin"), Some("*"));
        assert_eq!(response.into_string().as_deref(), Some(DOCUMENT));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(root: &Value, value: &Value) {
            resolve(root, value);
            value.as_object().into_iter().flatten().for_each(|(_, inner)| walk(root, inner));
            list(value).iter().for_each(|inner| walk(root, inner));
        }
        let frames: Value = serde_json::from_str(FRAMES).unwrap();
        for root in [openapi(), frames] {
            walk(&root, &root);
        }
    }

    // --- routes ---

    /// Every operation with its path's template.
    fn operations(root: &Value) -> impl Iterator<Item = (&str, &str, &Value, &Value)> {
        let paths = root["paths"].as_object().unwrap().iter();
        paths.flat_map(|(path, item)| {
            let methods = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
            let there = methods.into_iter().filter(|method| item[method].is_object());
            there.map(move |method| (method, path.as_str(), item, &item[method]))
        })
    }

    /// Names of an operation's parameters in the path or the query. A token in the query is
    /// a way to authenticate there, and a parameter of the route.
    fn parameters(root: &Value, item: &Value, operation: &Value, place: &str) -> Names {
        let given = list(&item["parameters"]).iter().chain(list(&operation["parameters"]));
        let given = given.map(|parameter| resolve(root, parameter));
        let ways = list(&operation["security"]).iter().flat_map(keys);
        let ways = ways.map(|way| &root["components"]["securitySchemes"][way]);
        let of_place = given.chain(ways).filter(|parameter| parameter["in"] == place);
        names(of_place.map(|parameter| &parameter["name"]))
    }

    /// `<x>`, `<x..>` or plain text of a Rocket route.
    fn dynamic(part: &str) -> Option<&str> {
        part.strip_prefix('<')?.strip_suffix('>').map(|name| name.trim_end_matches('.'))
    }

    /// The fields of the form that both lists read their query into, from its source: Rocket's
    /// routes say `<range..>` and no more.
    fn range_fields() -> Names {
        let source = include_str!("messages.rs");
        let form = source.split("struct Range<'r> {").nth(1).expect("messages.rs has the form");
        let form = form.split("\n}").next().unwrap_or_default();
        let fields = form.lines().filter_map(|line| line.trim().split_once(": Option<"));
        fields.map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn routes_and_their_parameters_are_the_documents() {
        let served: BTreeSet<(String, String, Names)> = crate::http::all()
            .iter()
            .map(|route| {
                let parts = route.uri.path().split('/').map(|part| match dynamic(part) {
                    Some(name) => format!("{{{name}}}"),
                    None => part.to_owned(),
                });
                let path = parts.collect::<Vec<_>>().join("/");
                let query = route.uri.query().into_iter().flat_map(|query| query.split('&'));
                let mut query: Names = query.filter_map(dynamic).map(str::to_owned).collect();
                if query.remove("range") {
                    query.extend(range_fields());
                }
                if path == "/messages" {
                    // Read there only to be refused.
                    query.remove("since");
                }
                (route.method.as_str().to_lowercase(), path, query)
            })
            .collect();
        let root = openapi();
        let written = operations(&root).map(|(method, path, item, operation)| {
            let query = parameters(&root, item, operation, "query");
            (method.to_owned(), path.to_owned(), query)
        });
        assert_eq!(served, written.collect());
        assert!(range_fields().contains("after"), "the form is read");
    }

    #[test]
    fn path_parameters_are_those_of_the_path_and_operations_have_names() {
        let root = openapi();
        let mut ids = Names::new();
        for (_, path, item, operation) in operations(&root) {
            let templates = path.split('/').filter_map(|part| part.strip_prefix('{'));
            let templates = templates.map(|part| part.trim_end_matches('}').to_owned());
            let declared = parameters(&root, item, operation, "path");
            assert_eq!(templates.collect::<Names>(), declared, "{path}");
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id), "{path}: the name is taken");
        }
    }

    // --- errors ---

    #[test]
    fn the_lists_of_codes_are_the_codes() {
        let codes = || ErrorCode::ALL.iter().map(|code| code.name().to_owned());
        let frames: Value = serde_json::from_str(FRAMES).unwrap();
        let root = openapi();
        for schema in [&root["components"]["schemas"]["ErrorCode"], &frames["$defs"]["ErrorCode"]] {
            assert_eq!(names(list(&schema["enum"])), codes().collect());
            let table = schema["description"].as_str().unwrap();
            for code in ErrorCode::ALL {
                let row = format!("\n| `{}` | {} | ", code.name(), code.status());
                assert!(table.contains(&row), "{row:?}");
            }
            assert_eq!(table.matches("\n| `").count(), ErrorCode::ALL.len());
        }
    }

    /// The codes that a text names in backticks.
    fn codes_in(text: &str) -> Vec<ErrorCode> {
        let spans = text.split('`').skip(1).step_by(2);
        let known = spans.filter_map(|span| ErrorCode::ALL.iter().find(|c| c.name() == span));
        known.copied().collect()
    }

    #[test]
    fn every_refusal_names_codes_of_its_status() {
        let root = openapi();
        // Of paths, not of routes: the introduction tells it.
        let mut told = BTreeSet::from([ErrorCode::MethodNotAllowed.name()]);
        for (method, path, _, operation) in operations(&root) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                if !status.starts_with(['4', '5']) {
                    continue;
                }
                let shared = resolve(&root, response);
                let problem = &shared["content"][PROBLEM_JSON]["schema"]["$ref"];
                assert_eq!(problem, "#/components/schemas/Problem", "{method} {path} {status}");
                let words = response["description"].as_str().or(shared["description"].as_str());
                let codes = codes_in(words.unwrap());
                assert!(!codes.is_empty(), "{method} {path} {status} names no code");
                for code in codes {
                    let answered = code.status().to_string();
                    assert_eq!(&answered, status, "{method} {path} {}", code.name());
                    told.insert(code.name());
                }
            }
        }
        assert_eq!(told, ErrorCode::ALL.iter().map(|code| code.name()).collect());
    }

    #[test]
    fn the_close_codes_are_told() {
        let root = openapi();
        let words = root["paths"]["/ws"]["get"]["description"].as_str().unwrap();
        for code in [CLOSE_MALFORMED, CLOSE_UNAUTHORIZED, CLOSE_FORBIDDEN] {
            assert!(words.contains(&format!("\n| {code} | ")), "{code}");
        }
    }

    // --- fields ---

    /// What serde makes of a type of the wire.
    struct Shape {
        /// The component's name.
        name: &'static str,
        /// Fields written when there is a value for each.
        written: Names,
        /// Fields without which the type cannot be read.
        needed: Names,
        /// Fields written whatever the value is.
        always: Names,
        /// Reads a text and writes it again; `None` if it is not of the type.
        echo: fn(&Value) -> Option<Value>,
    }

    fn echo<T: Serialize + DeserializeOwned>(value: &Value) -> Option<Value> {
        // By way of text: raw JSON inside the types is kept byte for byte.
        let read: T = serde_json::from_str(&value.to_string()).ok()?;
        Some(serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap())
    }

    /// The shape of a type, from a value that has something in every field.
    fn shape<T: Serialize + DeserializeOwned>(name: &'static str, full: &T) -> Shape {
        let full: Value = serde_json::from_str(&serde_json::to_string(full).unwrap()).unwrap();
        let written = keys(&full);
        let (mut needed, mut always) = (Names::new(), Names::new());
        for key in &written {
            let mut less = full.clone();
            less.as_object_mut().unwrap().remove(key);
            match echo::<T>(&less) {
                None => {
                    needed.insert(key.clone());
                    always.insert(key.clone());
                }
                Some(again) if keys(&again).contains(key) => {
                    always.insert(key.clone());
                }
                Some(_) => {}
            }
        }
        Shape { name, written, needed, always, echo: echo::<T> }
    }

    fn text() -> String {
        "x".to_owned()
    }

    fn raw() -> Box<RawValue> {
        RawValue::from_string("{}".to_owned()).unwrap()
    }

    fn device() -> DeviceId {
        DeviceId::native(&[1; 32])
    }

    const ACCOUNT: AccountId = AccountId([2; 32]);
    const CONV: ConvId = ConvId([3; 32]);

    fn msg() -> MsgId {
        MsgId::native(&[4; 16])
    }

    fn signed() -> SignedEvent {
        SignedEvent { event: text(), sig: text(), accept_sig: text() }
    }

    fn prekey() -> Prekey {
        let (not_before, not_after) = (Some(1), Some(2));
        Prekey { id: 1, x25519: text(), kem: text(), not_before, not_after, sig: text() }
    }

    fn receipt() -> Receipt {
        Receipt { sth_index: 1, head: text(), inclusion: vec![text()] }
    }

    fn tombstone() -> Tombstone {
        Tombstone { target_sth_index: 1, statement: Some(text()), sig: Some(text()) }
    }

    fn item() -> Item {
        let native = NativeItem {
            sender_account: ACCOUNT,
            packet: Some(text()),
            packet_hashes: BTreeMap::from([(device(), text())]),
            resent: true,
        };
        Item {
            msg_id: msg(),
            conv_id: CONV,
            sender_device: device(),
            cipher: text(),
            ad: raw(),
            ts: 1,
            sth_index: 1,
            native: Some(native),
            tombstone: Some(tombstone()),
            inclusion: Some(vec![text()]),
        }
    }

    fn link_request() -> LinkRequest {
        let (opening, sig) = (Some(text()), text());
        LinkRequest { ed25519_pub: text(), name: text(), opening, sig }
    }

    fn answers_about_chains() -> Vec<Shape> {
        let logged = LoggedEvent { signed: signed(), sth_index: 1, inclusion: vec![text()] };
        let handle = Handle::parse("alice").unwrap();
        let page = ChainPage {
            handle: handle.clone(),
            account_id: ACCOUNT,
            events: vec![logged],
            next: 1,
            more: true,
            head: text(),
            consistency: Some(vec![text()]),
        };
        let placed = EventPlaced {
            account_id: ACCOUNT,
            seq: 1,
            sth_index: 1,
            duplicate: true,
            receipt: receipt(),
        };
        let offer = LinkOffer { account_id: ACCOUNT, handle, event: text(), sig: text() };
        let LinkRequest { ed25519_pub, name, opening, sig } = link_request();
        let offered = Some(offer.clone());
        let link =
            Link { link_id: text(), ed25519_pub, name, opening, sig, exp: 1, offer: offered };
        vec![
            shape("ChainPage", &page),
            shape("EventPlaced", &placed),
            shape("Link", &link),
            shape("LinkOffer", &offer),
        ]
    }

    fn requests() -> Vec<Shape> {
        let register = RegisterRequest {
            handle: text(),
            device_id: Some(text()),
            ed25519_pub: text(),
            genesis: Some(signed()),
            invite: Some(text()),
        };
        let send = SendRequest {
            conv_id: CONV,
            cipher: text(),
            ad: raw(),
            msg_id: Some(msg()),
            packets: Some(BTreeMap::from([(device(), text())])),
            dseq: Some(1),
        };
        let delete = DeleteRequest {
            conv_id: CONV,
            target_msg_id: msg(),
            statement: Some(text()),
            sig: Some(text()),
        };
        let upload =
            PrekeyUpload { fallback: Some(prekey()), one_time: vec![prekey()], remove: vec![1] };
        let verify = VerifyRequest { device_id: text(), signature: text() };
        vec![
            shape("RegisterRequest", &register),
            shape("SignedEvent", &signed()),
            shape("VerifyRequest", &verify),
            shape("RefreshRequest", &RefreshRequest { refresh: text() }),
            shape("ConversationRequest", &ConversationRequest { peer_handle: text() }),
            shape("SendRequest", &send),
            shape("DeleteRequest", &delete),
            shape("PrekeyUpload", &upload),
            shape("LinkRequest", &link_request()),
            shape("LinkAnswer", &LinkAnswer { event: text(), sig: text() }),
            shape("LinkAcceptance", &LinkAcceptance { accept_sig: text() }),
            shape("PacketAgain", &PacketAgain { packet: text() }),
        ]
    }

    fn answers() -> Vec<Shape> {
        let challenge = Challenge { nonce: text(), exp: 1, device_id: device() };
        let tokens = Tokens {
            access: text(),
            refresh: text(),
            token_type: text(),
            expires_in: 1,
            device_id: device(),
            account_id: ACCOUNT,
            account_sth_index: 1,
        };
        let conversation = Conversation {
            conv_id: CONV,
            me_x25519: text(),
            peer_x25519: text(),
            me_account: ACCOUNT,
            peer_account: ACCOUNT,
            peer_native: true,
        };
        let health = Health { status: text(), timestamp: 1, users_count: 1, sth_count: 1 };
        let problem = Problem { retry_after: Some(1), ..Problem::new(ErrorCode::NotFound, "x") };
        vec![
            shape("Challenge", &challenge),
            shape("Tokens", &tokens),
            shape("MyX25519", &MyX25519 { x25519_pub_b64: text() }),
            shape("Conversation", &conversation),
            shape("Health", &health),
            shape("Probe", &Probe { status: "live".to_owned() }),
            shape("Problem", &problem),
        ]
    }

    fn answers_about_messages() -> Vec<Shape> {
        let sent =
            SendResponse { ok: true, message: item(), duplicate: true, receipt: Some(receipt()) };
        let deleted =
            DeleteResponse { ok: true, sth_index: 1, duplicate: true, receipt: Some(receipt()) };
        let page = Page {
            items: vec![item()],
            next: 1,
            more: true,
            head: Some(text()),
            consistency: Some(vec![text()]),
        };
        vec![
            shape("Item", &item()),
            shape("Tombstone", &tombstone()),
            shape("Receipt", &receipt()),
            shape("SendResponse", &sent),
            shape("DeleteResponse", &deleted),
            shape("Page", &page),
            shape("RetryState", &RetryState { asked: 1, answered: true }),
        ]
    }

    fn answers_about_keys_and_the_log() -> Vec<Shape> {
        let reference = PrekeyRef { id: 1, hash: text() };
        let stock =
            PrekeyStock { fallback: Some(reference.clone()), one_time: vec![reference.clone()] };
        let logged = LoggedEvent { signed: signed(), sth_index: 1, inclusion: vec![text()] };
        let keys = DeviceBundle {
            device_id: device(),
            x25519_pub: text(),
            fpk: Some(prekey()),
            otk: Some(prekey()),
            otk_status: OneTimeStatus::Ok,
        };
        let bundle = Bundle {
            handle: Handle::parse("alice").unwrap(),
            account_id: ACCOUNT,
            events: vec![logged.clone()],
            head: text(),
            consistency: Some(vec![text()]),
            devices: vec![keys.clone()],
        };
        let head = HeadView { origin: text(), size: 1, root: text(), time: 1, note: text() };
        let (leaf_hash, hashes) = (text(), vec![text()]);
        let inclusion = InclusionView { index: 0, size: 1, leaf_hash, hashes };
        let consistency = ConsistencyView { from: 1, to: 2, hashes: vec![text()] };
        let plain = PlainKey {
            handle: Handle::parse("alice").unwrap(),
            account_id: ACCOUNT,
            device_id: device(),
            ed25519_pub: text(),
        };
        let (native, told) = (Some(signed()), Some(plain.clone()));
        let event = KeyEventView { index: 0, native, plain: told };
        let events = EventPage { events: vec![event.clone()], next: 1, size: 1 };
        vec![
            shape("Prekey", &prekey()),
            shape("PrekeyRef", &reference),
            shape("PrekeyStock", &stock),
            shape("LoggedEvent", &logged),
            shape("DeviceBundle", &keys),
            shape("Bundle", &bundle),
            shape("HeadView", &head),
            shape("InclusionView", &inclusion),
            shape("ConsistencyView", &consistency),
            shape("PlainKey", &plain),
            shape("KeyEventView", &event),
            shape("EventPage", &events),
        ]
    }

    /// The properties of a schema and those it requires, with what it takes over by `allOf`.
    fn fields(root: &Value, schema: &Value) -> (Names, Names) {
        let (mut all, mut required) = (keys(&schema["properties"]), Names::new());
        required.extend(names(list(&schema["required"])));
        for part in list(&schema["allOf"]) {
            let (more, needed) = fields(root, resolve(root, part));
            all.extend(more);
            required.extend(needed);
        }
        (all, required)
    }

    /// Holds a schema to its type: the same fields, and examples that the type reads and writes.
    fn compare(root: &Value, schema: &Value, shape: &Shape, required: &Names) {
        let name = shape.name;
        let (all, listed) = fields(root, schema);
        assert_eq!(all, shape.written, "{name}: its properties");
        assert_eq!(&listed, required, "{name}: what it requires");
        for example in list(&schema["examples"]) {
            assert_eq!((shape.echo)(example).as_ref(), Some(example), "{name}: an example");
        }
    }

    #[test]
    fn components_have_the_fields_of_their_types() {
        let root = openapi();
        let schemas = root["components"]["schemas"].as_object().unwrap();
        let asked = requests();
        let told = [
            answers(),
            answers_about_messages(),
            answers_about_chains(),
            answers_about_keys_and_the_log(),
        ];
        let told: Vec<Shape> = told.into_iter().flatten().collect();
        for (shape, required) in asked
            .iter()
            .map(|shape| (shape, &shape.needed))
            .chain(told.iter().map(|shape| (shape, &shape.always)))
        {
            let schema = schemas.get(shape.name).unwrap_or_else(|| panic!("{}", shape.name));
            compare(&root, schema, shape, required);
        }
        let compared: Names = asked.iter().chain(&told).map(|s| s.name.to_owned()).collect();
        // Any JSON object: it has no type here.
        let objects = schemas.iter().filter(|(name, _)| *name != "AdditionalData");
        let objects = objects.filter(|(_, schema)| schema["type"] == "object");
        assert_eq!(objects.map(|(name, _)| name.clone()).collect::<Names>(), compared);
    }

    #[test]
    fn every_type_of_the_api_has_a_component() {
        let source = include_str!("../../../schema/src/http.rs");
        let types = source.lines().filter_map(|line| {
            let rest = line.strip_prefix("pub struct ").or(line.strip_prefix("pub enum "))?;
            rest.split([' ', '(', ';', '<']).next()
        });
        // Flattened into `Item`.
        let types: Names = types.filter(|&name| name != "NativeItem").map(str::to_owned).collect();
        assert!(types.contains("RegisterRequest") && types.contains("OneTimeStatus"));
        let missing: Vec<_> =
            types.difference(&keys(&openapi()["components"]["schemas"])).cloned().collect();
        assert!(missing.is_empty(), "without a component: {missing:?}");
    }

    #[test]
    fn the_states_of_a_claim_are_the_types() {
        let name = |status: OneTimeStatus| {
            // A new one does not compile until it is named here.
            match status {
                OneTimeStatus::Ok
                | OneTimeStatus::NotAsked
                | OneTimeStatus::Exhausted
                | OneTimeStatus::Throttled => serde_json::to_value(status).unwrap(),
            }
        };
        let all = [
            OneTimeStatus::Ok,
            OneTimeStatus::NotAsked,
            OneTimeStatus::Exhausted,
            OneTimeStatus::Throttled,
        ];
        let root = openapi();
        let listed = names(list(&root["components"]["schemas"]["OneTimeStatus"]["enum"]));
        assert_eq!(listed, names(&all.map(name)));
    }

    #[test]
    fn limits_are_those_of_the_code() {
        let base64 = |bytes: usize| bytes.div_ceil(3) * 4;
        let root = openapi();
        let frames: Value = serde_json::from_str(FRAMES).unwrap();
        for (pointer, limit) in [
            ("schemas/SendRequest/properties/cipher/maxLength", base64(MAX_CIPHER)),
            ("schemas/SendRequest/properties/packets/maxProperties", MAX_PACKETS),
            (
                "schemas/SendRequest/properties/packets/additionalProperties/maxLength",
                base64(MAX_PACKET),
            ),
            ("schemas/PrekeyUpload/properties/one_time/maxItems", MAX_PREKEY_UPLOAD),
            ("schemas/PrekeyUpload/properties/remove/maxItems", MAX_ONE_TIME_PREKEYS),
            ("schemas/PrekeyStock/properties/one_time/maxItems", MAX_ONE_TIME_PREKEYS),
            ("schemas/Page/properties/items/maxItems", MAX_PAGE as usize),
            ("schemas/ChainPage/properties/events/maxItems", MAX_PAGE as usize),
            ("parameters/Limit/schema/maximum", MAX_PAGE as usize),
            ("parameters/Limit/schema/default", DEFAULT_PAGE as usize),
        ] {
            assert_eq!(root["components"].pointer(&format!("/{pointer}")), Some(&limit.into()));
        }
        let packets =
            |root: &Value, pointer| root.pointer(pointer).unwrap()["maxProperties"].clone();
        assert_eq!(packets(&frames, "/$defs/Submit/properties/packets"), MAX_PACKETS);
        let body = root["info"]["description"].as_str().unwrap().replace(',', "");
        assert!(body.contains(&format!("at most {MAX_BODY} bytes")));
    }

    #[test]
    fn what_is_told_of_a_socket_has_the_fields_of_its_type() {
        let head = Notice::Head { size: 1, head: Some(text()), consistency: Some(vec![]) };
        let greeting = Notice::Hello {
            ver: 1,
            device_id: device(),
            after: 1,
            window: 1,
            ping_every: 1,
            max_frame: 1,
            max_in_flight: 1,
            size: 1,
        };
        let bye = Notice::Bye { reason: Farewell::Busy, retry_after: Some(1), cursor: 1 };
        let root: Value = serde_json::from_str(FRAMES).unwrap();
        let told = [
            shape("Head", &head),
            shape("Hello", &greeting),
            shape("Bye", &bye),
            shape("DeviceRevoked", &Notice::DeviceRevoked { device_id: device() }),
        ];
        for shape in &told {
            compare(&root, &root["$defs"][shape.name], shape, &shape.always);
        }
    }

    #[test]
    fn frames_have_the_fields_of_their_types() {
        let split = Cipher::Split { c: text(), n: text() };
        let submit = Submit {
            ask: Some(Ask::Send),
            ver: 1,
            conv_id: CONV,
            msg_id: Some(msg()),
            cipher: split.clone(),
            ad: Some(raw()),
            packets: Some(BTreeMap::from([(device(), text())])),
            dseq: Some(1),
            receipt: true,
        };
        let envelope = Envelope {
            ver: 1,
            conv_id: CONV,
            msg_id: msg(),
            sender_device: device(),
            cipher: split.clone(),
            ad: raw(),
            ts: 1,
            sth_index: 1,
            target_msg_id: Some(msg()),
        };
        let problem = Problem { retry_after: Some(1), ..Problem::new(ErrorCode::NotFound, "x") };
        let nack = Notice::Nack { msg_id: Some(msg()), problem: problem.clone() };
        let receipt = Receipt { sth_index: 1, head: text(), inclusion: vec![text()] };
        let ack = Notice::Ack {
            msg_id: msg(),
            sth_index: 1,
            ts: 1,
            duplicate: true,
            deleted: true,
            receipt: Some(receipt.clone()),
        };
        let root: Value = serde_json::from_str(FRAMES).unwrap();
        let submit = shape("Submit", &submit);
        compare(&root, &root["$defs"]["Submit"], &submit, &submit.needed);
        let told = [
            shape("Envelope", &envelope),
            shape("Push", &Push { kind: PushKind::Message, item: item() }),
            shape("PrekeysLow", &Notice::PrekeysLow { left: 1 }),
            shape("Ack", &ack),
            shape("Nack", &nack),
            shape("Receipt", &receipt),
            shape("Problem", &problem),
        ];
        for shape in &told {
            compare(&root, &root["$defs"][shape.name], shape, &shape.always);
        }
        let split = shape("Cipher", &split);
        compare(&root, &root["$defs"]["Cipher"]["oneOf"][1], &split, &split.always);
    }

    #[test]
    fn what_a_client_says_of_its_socket_has_the_fields_of_its_type() {
        let hello = Control::Hello(Hello {
            ver: 1,
            cursor: Some(CursorName::parse("tail").unwrap()),
            after: Some(1),
            conversations: Some(vec![CONV]),
            window: 1,
            proofs: true,
            tree_size: Some(1),
        });
        let request = DeleteRequest {
            conv_id: CONV,
            target_msg_id: msg(),
            statement: Some(text()),
            sig: Some(text()),
        };
        let delete = Control::Delete(Delete { request, receipt: true });
        let root: Value = serde_json::from_str(FRAMES).unwrap();
        for shape in [
            shape("ClientHello", &hello),
            shape("ClientAck", &Control::Ack { cursor: 1 }),
            shape("ClientDelete", &delete),
        ] {
            compare(&root, &root["$defs"][shape.name], &shape, &shape.needed);
        }
        let hello = &root["$defs"]["ClientHello"]["properties"];
        assert_eq!(hello["window"]["maximum"], MAX_WINDOW);
        assert_eq!(hello["window"]["default"], DEFAULT_WINDOW);
        assert_eq!(hello["conversations"]["maxItems"], MAX_SUBSCRIPTIONS);
    }

    #[test]
    fn every_frame_of_the_relay_is_in_the_schema() {
        let source = include_str!("../../../schema/src/ws.rs");
        let notices = source.split("pub enum Notice {").nth(1).expect("ws.rs has the notices");
        let notices = notices.split("\n}").next().unwrap_or_default().lines();
        let variants = notices.filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" {"));
        let frames: Names = variants.chain(["Envelope", "Push"]).map(str::to_owned).collect();
        let root: Value = serde_json::from_str(FRAMES).unwrap();
        let listed = list(&root["$defs"]["RelayFrame"]["oneOf"]).iter();
        let listed = listed.filter_map(|frame| frame["$ref"].as_str()?.strip_prefix("#/$defs/"));
        assert_eq!(frames, listed.map(str::to_owned).collect());
    }
}
