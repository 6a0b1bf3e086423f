//! The tables of `schema/migrations/server`, as Diesel sees them. Written by hand; the test
//! at the end of `store/mod.rs` compares them with a migrated database.

use diesel::{allow_tables_to_appear_in_same_query, joinable, table};

table! {
    accounts (account_id) {
        account_id -> Binary,
        handle -> Text,
        native -> Bool,
        created_index -> BigInt,
    }
}

table! {
    devices (device_id) {
        device_id -> Text,
        account_id -> Binary,
        ed25519_pub -> Binary,
        x25519_pub -> Binary,
        caps -> Integer,
        not_after -> BigInt,
        added_index -> BigInt,
        revoked_index -> Nullable<BigInt>,
        conversations -> Binary,
    }
}

table! {
    key_events (sth_index) {
        sth_index -> BigInt,
        account_id -> Binary,
        seq -> BigInt,
        event -> Binary,
        sig -> Binary,
        accept_sig -> Binary,
    }
}

table! {
    send_counters (device_id) {
        device_id -> Text,
        highest -> BigInt,
        used -> Binary,
    }
}

table! {
    account_usage (account_id) {
        account_id -> Binary,
        messages -> BigInt,
        bytes -> BigInt,
    }
}

table! {
    usage_counted (id) {
        id -> Integer,
    }
}

table! {
    challenges (nonce) {
        nonce -> Text,
        device_id -> Text,
        request -> Binary,
        exp -> BigInt,
    }
}

table! {
    refresh_tokens (hash) {
        hash -> Binary,
        family -> Binary,
        device_id -> Text,
        jkt -> Nullable<Text>,
        exp -> BigInt,
        rotated_at -> Nullable<BigInt>,
    }
}

table! {
    link_requests (link_id) {
        link_id -> Binary,
        ed25519_pub -> Binary,
        name -> Binary,
        opening -> Binary,
        sig -> Binary,
        exp -> BigInt,
        account_id -> Nullable<Binary>,
        event -> Nullable<Binary>,
        event_sig -> Nullable<Binary>,
    }
}

table! {
    invites (hash) {
        hash -> Binary,
        uses_left -> BigInt,
        exp -> BigInt,
    }
}

table! {
    proofs_seen (mark) {
        mark -> Binary,
        exp -> BigInt,
    }
}

table! {
    socket_cursors (device_id, name) {
        device_id -> Text,
        name -> Text,
        place -> BigInt,
    }
}

table! {
    auditor_tokens (hash) {
        hash -> Binary,
        exp -> BigInt,
    }
}

table! {
    conversations (conv_id) {
        conv_id -> Binary,
        kind -> Text,
        created -> BigInt,
    }
}

table! {
    participants (conv_id, account_id) {
        conv_id -> Binary,
        account_id -> Binary,
    }
}

table! {
    messages (sth_index) {
        sth_index -> BigInt,
        conv_id -> Binary,
        msg_id -> Text,
        sender_device -> Text,
        sender_account -> Binary,
        native -> Bool,
        nonce_len -> Integer,
        cipher -> Binary,
        ad -> Binary,
        ts -> BigInt,
        content_hash -> Binary,
        deleted_index -> Nullable<BigInt>,
    }
}

table! {
    packets (sth_index, device_id) {
        sth_index -> BigInt,
        device_id -> Text,
        packet -> Binary,
        hash -> Binary,
    }
}

table! {
    retries (sth_index, device_id) {
        sth_index -> BigInt,
        device_id -> Text,
        asked -> Integer,
        answered -> Integer,
        packet -> Nullable<Binary>,
        at -> BigInt,
    }
}

table! {
    deletions (sth_index) {
        sth_index -> BigInt,
        conv_id -> Binary,
        target_index -> BigInt,
        target_msg_id -> Text,
        device_id -> Text,
        account_id -> Binary,
        statement -> Nullable<Binary>,
        sig -> Nullable<Binary>,
        ts -> BigInt,
    }
}

table! {
    fallback_prekeys (device_id) {
        device_id -> Text,
        id -> BigInt,
        x25519 -> Binary,
        kem -> Binary,
        not_before -> BigInt,
        not_after -> BigInt,
        sig -> Binary,
    }
}

table! {
    one_time_prekeys (device_id, id) {
        device_id -> Text,
        id -> BigInt,
        x25519 -> Binary,
        kem -> Binary,
        sig -> Binary,
    }
}

table! {
    prekey_marks (device_id) {
        device_id -> Text,
        one_time -> BigInt,
    }
}

table! {
    prekey_claims (claimer, device_id, at) {
        claimer -> Binary,
        device_id -> Text,
        at -> BigInt,
    }
}

table! {
    log_head (id) {
        id -> Integer,
        origin -> Text,
        size -> BigInt,
        root -> Binary,
        note -> Binary,
        time -> BigInt,
    }
}

table! {
    heads (size) {
        size -> BigInt,
        root -> Binary,
        note -> Binary,
        time -> BigInt,
        staged_at -> BigInt,
    }
}

table! {
    tiles (level, idx) {
        level -> Integer,
        idx -> BigInt,
        hashes -> Binary,
    }
}

table! {
    bundles (idx) {
        idx -> BigInt,
        entries -> Binary,
    }
}

table! {
    tail (start) {
        start -> BigInt,
        entries -> Binary,
    }
}

joinable!(devices -> accounts (account_id));
allow_tables_to_appear_in_same_query!(
    accounts,
    devices,
    participants,
    messages,
    deletions,
    conversations
);
