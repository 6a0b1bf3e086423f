//! The tables of `schema/migrations/cli`, as Diesel sees them. Written by hand; the test in
//! `vault/mod.rs` compares them with a migrated database.

use diesel::table;

table! {
    identity (id) {
        id -> Integer,
        handle -> Text,
        account_id -> Binary,
        genesis_event -> Binary,
        genesis_sig -> Binary,
        genesis_accept -> Binary,
        sealed_seed -> Binary,
        sealed_idem -> Binary,
        registered -> Bool,
        admission_event -> Nullable<Binary>,
        admission_sig -> Nullable<Binary>,
        admission_accept -> Nullable<Binary>,
    }
}

table! {
    server_pin (id) {
        id -> Integer,
        url -> Text,
        origin -> Text,
        log_vkey -> Text,
        time_vkey -> Nullable<Text>,
    }
}

table! {
    peers (account_id) {
        account_id -> Binary,
        handle -> Text,
        pinned -> Bool,
        first_seen -> BigInt,
        conversation -> Bool,
        bundle -> Nullable<Text>,
        bundle_at -> Nullable<BigInt>,
    }
}

table! {
    chain_events (account_id, seq) {
        account_id -> Binary,
        seq -> BigInt,
        sth_index -> BigInt,
        event -> Binary,
        sig -> Binary,
        accept_sig -> Binary,
    }
}

table! {
    own_devices (device_id) {
        device_id -> Binary,
        known_at -> BigInt,
    }
}

table! {
    pins (handle) {
        handle -> Text,
        account_id -> Binary,
        pinned_at -> BigInt,
    }
}

table! {
    heard_heads (size, root) {
        size -> BigInt,
        root -> Binary,
        note -> Text,
        heard_at -> BigInt,
    }
}

table! {
    heads (id) {
        id -> Integer,
        size -> BigInt,
        root -> Binary,
        note -> Text,
        time -> BigInt,
    }
}

table! {
    split_views (id) {
        id -> Integer,
        seen_at -> BigInt,
        held -> Text,
        shown -> Text,
    }
}

table! {
    prekeys (kind, id) {
        kind -> Text,
        id -> BigInt,
        sealed_secret -> Binary,
        created_at -> BigInt,
        not_before -> Nullable<BigInt>,
        replaced_at -> Nullable<BigInt>,
        published -> Bool,
    }
}

table! {
    replays (fallback_id, ephemeral) {
        fallback_id -> BigInt,
        ephemeral -> Binary,
    }
}

table! {
    outbox (msg_id) {
        msg_id -> Text,
        conv_id -> Binary,
        peer_account -> Binary,
        peer_handle -> Text,
        dseq -> Nullable<BigInt>,
        cseq -> BigInt,
        envelope -> Binary,
        request -> Binary,
        sealed_text -> Nullable<Binary>,
        created_at -> BigInt,
        state -> Text,
        sth_index -> Nullable<BigInt>,
        version -> BigInt,
        control -> Bool,
    }
}

table! {
    inbox (sth_index) {
        sth_index -> BigInt,
        conv_id -> Binary,
        msg_id -> Text,
        sender_account -> Nullable<Binary>,
        sender_device -> Text,
        sender_handle -> Nullable<Text>,
        kind -> Text,
        reason -> Nullable<Text>,
        envelope -> Nullable<Binary>,
        sealed_text -> Nullable<Binary>,
        sent_at -> Nullable<Text>,
        received_at -> BigInt,
        printed -> Bool,
        version -> BigInt,
        recipient -> Nullable<Text>,
        event -> Nullable<Text>,
    }
}

table! {
    sessions (device_id, session_id) {
        device_id -> Binary,
        session_id -> Binary,
        account_id -> Binary,
        sealed_state -> Binary,
        version -> BigInt,
    }
}

table! {
    pairs (device_id) {
        device_id -> Binary,
        account_id -> Binary,
        owes -> Bool,
        sealed_state -> Binary,
        version -> BigInt,
    }
}

table! {
    skipped (session_id, serial) {
        session_id -> Binary,
        serial -> BigInt,
        sealed_key -> Binary,
        stored_at -> BigInt,
    }
}

table! {
    kept (msg_id) {
        msg_id -> Text,
        sealed_state -> Binary,
        sealed_at -> BigInt,
        version -> BigInt,
    }
}

table! {
    meta (name) {
        name -> Text,
        value -> Binary,
    }
}

table! {
    asks (sth_index) {
        sth_index -> BigInt,
        times -> BigInt,
        asked_at -> Nullable<BigInt>,
        session_id -> Nullable<Binary>,
    }
}

table! {
    answers (msg_id, device_id) {
        msg_id -> Text,
        device_id -> Binary,
        account_id -> Binary,
        packet -> Nullable<Binary>,
        asked_at -> BigInt,
    }
}
