#!/usr/bin/env python3
"""Writes kat_session.json: a short conversation in one session, and a rotation.

An independent reading of PROTOCOL.md 7 with Python's standard library and the
package `cryptography` (X25519, ML-KEM-768, ChaCha20-Poly1305). It starts from the
secrets of session_with_otk in kat_draft.json, derives everything itself, and stops if
it does not come to the values that two other implementations agreed on there.

Alice sends a0 (type 1), Bob answers b0 and b1 (type 2), Alice has read b0 and sends a1
(type 2, a new chain). `rotation` is a0 again, as the first message of a session that
replaces session_fallback_only, whose continuity key is in kat_draft.json.

Run: python3 scripts/kat_session.py
"""
import hashlib
import hmac
import json
import pathlib
import struct

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

HERE = pathlib.Path(__file__).parent.parent / "schema" / "vectors" / "nexo"
SUITE = b"\x01"
MASK = 0xFFFFFFFF


def u32(n):
    return struct.pack(">I", n)


def enc(label, fields):
    out = u32(len(label)) + label.encode() + u32(len(fields))
    return out + b"".join(u32(len(f)) + f for f in fields)


def H(data):
    return hashlib.sha256(data).digest()


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def expand(prk, info, length):
    out, block, n = b"", b"", 1
    while len(out) < length:
        block = mac(prk, block + info + bytes([n]))
        out, n = out + block, n + 1
    return out[:length]


def hkdf(salt, ikm, info, length):
    return expand(mac(salt, ikm), info, length)


def public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def dh(secret, theirs):
    """X25519; the package refuses a zero result, as we must."""
    key = X25519PrivateKey.from_private_bytes(secret)
    return key.exchange(X25519PublicKey.from_public_bytes(theirs))


def hchacha20(key, nonce16):
    x = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key)
             + struct.unpack("<4I", nonce16))

    def quarter(a, b, c, d):
        for p, q, r, s in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[p] = (x[p] + x[q]) & MASK
            t = x[r] ^ x[p]
            x[r] = (t << s | t >> (32 - s)) & MASK

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<8I", *(x[:4] + x[12:]))


def nx_seal(key, label, aad, plaintext, rand32):
    r = mac(key, enc("nexo/1/hedge", [rand32, H(aad), H(plaintext)]))
    okm = hkdf(r, key, enc(label, [H(aad)]), 88)
    nonce = okm[32:56]
    cipher = ChaCha20Poly1305(hchacha20(okm[:32], nonce[:16]))
    return r + okm[56:] + cipher.encrypt(bytes(4) + nonce[16:], plaintext, aad)


def root_step(root, shared, session):
    okm = hkdf(root, shared, enc("nexo/1/ratchet/root", [session]), 64)
    return okm[:32], okm[32:]


def chain_step(chain, n, session):
    okm = expand(chain, enc("nexo/1/ratchet/chain", [session, u32(n)]), 64)
    return okm[:32], okm[32:]


def drawn(name):
    """Bytes that stand for random ones."""
    return H(b"nexo kat_session " + name.encode())


class Device:
    def __init__(self, kat, name):
        device = kat["device_" + name]
        self.account = bytes.fromhex(device["account_id_placeholder"])
        self.id = bytes.fromhex(device["device_id"])
        self.identity = bytes.fromhex(device["ed25519_pub"])
        self.dh_secret = bytes.fromhex(device["x25519_secret_unclamped"])


def handshake(s, alice, bob):
    """TH, RK0 and CONT0 of session_with_otk, from its secrets, as Bob computes them."""
    ek, spk, otk = public(s["ephemeral_secret"]), s["spk_secret"], s["otk_secret"]
    ss = MLKEM768PrivateKey.from_seed_bytes(s["mlkem_seed"]).decapsulate(s["kem_ct"])
    agreed = [dh(spk, public(alice.dh_secret)), dh(bob.dh_secret, ek), dh(spk, ek), dh(otk, ek)]
    th = H(enc("nexo/1/pqxdh-transcript",
               [SUITE, s["origin"], alice.account, alice.id, alice.identity, bob.account, bob.id,
                bob.identity, ek, u32(s["fpk_id"]), public(spk), b"\x01", u32(s["otk_id"]),
                public(otk), H(s["mlkem_ek"]), s["kem_ct"]]))
    okm = hkdf(bytes(32), b"\xff" * 32 + b"".join(agreed) + ss, enc("nexo/1/pqxdh", [th]), 64)
    block = ek + u32(s["fpk_id"]) + b"\x01" + u32(s["otk_id"]) + s["kem_ct"]
    return th, okm[:32], okm[32:], block


def message(s, name, sender, to, kind, session, ratchet, pn, n, mk, block=b"", proof=b""):
    """One message to one device; everything random is drawn by name."""
    msg_id, body = drawn(name + " msg_id")[:16], b'{"t":"text","text":"' + name.encode() + b'"}'
    cek = drawn(name + " cek")
    aad = enc("nexo/1/payload-aad",
              [SUITE, s["origin"], s["conv_id"], msg_id, sender.account, sender.id])
    padded = u32(len(body)) + body + bytes(256 - 4 - len(body))
    sealed = nx_seal(cek, "nexo/1/payload", aad, padded, drawn(name + " payload hedge"))
    pd = H(enc("nexo/1/payload-digest", [aad, sealed]))
    header = SUITE + bytes([kind]) + session + ratchet + u32(pn) + u32(n) + block
    aad_kp = enc("nexo/1/kp-aad", [s["origin"], sender.account, sender.id, to.account, to.id,
                                   s["conv_id"], msg_id, pd, header])
    kp = header + nx_seal(mk, "nexo/1/keypacket", aad_kp, cek + proof,
                          drawn(name + " packet hedge"))
    eh = H(enc("nexo/1/envelope", [aad, pd, to.id + H(kp)]))
    return {"msg_id": msg_id.hex(), "body": body.decode(), "mk": mk.hex(), "sealed": sealed.hex(),
            "packet": kp.hex(), "envelope_hash": eh.hex()}


def main():
    kat = json.loads((HERE / "kat_draft.json").read_text())
    s = {k: bytes.fromhex(v) if isinstance(v, str) and k != "origin" else v
         for k, v in kat["session_with_otk"].items()}
    s["origin"] = s["origin"].encode()
    alice, bob = Device(kat, "alice"), Device(kat, "bob")
    th, rk0, cont0, block = handshake(s, alice, bob)
    assert (th, rk0, cont0) == (s["transcript_hash"], s["rk0"], s["continuity0"])
    session = H(enc("nexo/1/session-id", [th]))[:16]
    assert session == s["session_id"]

    # Alice's first chain, under her first ratchet key and Bob's fallback prekey.
    a_secret, b_secret = s["alice_ratchet_secret0"], s["bob_ratchet_secret0"]
    rk1, ck = root_step(rk0, dh(a_secret, public(s["spk_secret"])), session)
    assert (rk1, ck) == (s["rk1"], s["ck0"])
    ck, mk0 = chain_step(ck, 0, session)
    _, mk1 = chain_step(ck, 1, session)
    assert (mk0, mk1) == (s["mk0"], s["mk1"])
    a0 = message(s, "a0", alice, bob, 1, session, public(a_secret), 0, 0, mk0, block)

    # Bob answers: a new root and chain under his first ratchet key.
    rk2, b_chain0 = root_step(rk1, dh(b_secret, public(a_secret)), session)
    assert (rk2, b_chain0) == (s["bob_rk_after"], s["bob_cks_after"])
    b_chain1, b_mk0 = chain_step(b_chain0, 0, session)
    b_chain2, b_mk1 = chain_step(b_chain1, 1, session)
    b0 = message(s, "b0", bob, alice, 2, session, public(b_secret), 0, 0, b_mk0)
    b1 = message(s, "b1", bob, alice, 2, session, public(b_secret), 0, 1, b_mk1)

    # Alice has read b0: her second chain. She sent one message in the first.
    a_secret1 = drawn("a1 ratchet")
    rk3, a_chain0 = root_step(rk2, dh(a_secret1, public(b_secret)), session)
    a_chain1, a_mk0 = chain_step(a_chain0, 0, session)
    a1 = message(s, "a1", alice, bob, 2, session, public(a_secret1), 1, 0, a_mk0)

    old = bytes.fromhex(kat["session_fallback_only"]["continuity0"])
    proof = mac(old, enc("nexo/1/continuity", [th]))
    rotation = message(s, "rotation", alice, bob, 1, session, public(a_secret), 0, 0, mk0, block,
                       proof)
    note = ("made by scripts/kat_session.py from session_with_otk of kat_draft.json; what is "
            "random is SHA-256 of 'nexo kat_session ' and its name: '<message> cek', "
            "'<message> payload hedge', '<message> packet hedge', 'a1 ratchet'")
    out = {"note": note, "messages": {"a0": a0, "b0": b0, "b1": b1, "a1": a1},
           "bob_chain_after_b1": b_chain2.hex(), "alice_ratchet_secret1": a_secret1.hex(),
           "alice_root_after_a1": rk3.hex(), "alice_chain_after_a1": a_chain1.hex(),
           "continuity": proof.hex(), "rotation": rotation}
    (HERE / "kat_session.json").write_text(json.dumps(out, indent=2) + "\n")


main()
