#!/usr/bin/env python3
"""Writes kat_oneshot.json: one whole one-shot message and what hangs on it.

An independent reading of the protocol text with Python's standard library only.
It starts from the inputs of kat_draft.json (whose ML-KEM ciphertext and root key
two other implementations agreed on) and first proves itself on the sealed bytes
of that file. Run: python3 scripts/kat_oneshot.py
"""
import base64
import hashlib
import hmac
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent.parent / "schema" / "vectors" / "nexo"
MASK = 0xFFFFFFFF


def enc(label, fields):
    out = struct.pack(">I", len(label)) + label.encode() + struct.pack(">I", len(fields))
    return out + b"".join(struct.pack(">I", len(f)) + f for f in fields)


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


def rounds(state):
    x = list(state)

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
    return x


SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def hchacha20(key, nonce16):
    x = rounds(SIGMA + struct.unpack("<8I", key) + struct.unpack("<4I", nonce16))
    return struct.pack("<8I", *(x[:4] + x[12:]))


def chacha20(key, nonce12, counter, data):
    out = b""
    for i in range(0, len(data), 64):
        state = SIGMA + struct.unpack("<8I", key) + (counter,) + struct.unpack("<3I", nonce12)
        counter += 1
        block = struct.pack("<16I", *((a + b) & MASK for a, b in zip(state, rounds(state))))
        out += bytes(a ^ b for a, b in zip(data[i:i + 64], block))
    return out


def poly1305(key, data):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    s, acc = int.from_bytes(key[16:], "little"), 0
    for i in range(0, len(data), 16):
        acc = (acc + int.from_bytes(data[i:i + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ((acc + s) % 2**128).to_bytes(16, "little")


def xchacha20_poly1305(key, nonce24, aad, plaintext):
    key, nonce = hchacha20(key, nonce24[:16]), bytes(4) + nonce24[16:]
    ct = chacha20(key, nonce, 1, plaintext)
    pad = lambda b: b + bytes(-len(b) % 16)
    tail = struct.pack("<QQ", len(aad), len(ct))
    return ct + poly1305(chacha20(key, nonce, 0, bytes(32)), pad(aad) + pad(ct) + tail)


def nx_seal(key, label, aad, plaintext, rand32):
    r = mac(key, enc("nexo/1/hedge", [rand32, H(aad), H(plaintext)]))
    okm = expand(mac(r, key), enc(label, [H(aad)]), 88)
    return r + okm[56:] + xchacha20_poly1305(okm[:32], okm[32:56], aad, plaintext)


def main():
    kat = json.loads((HERE / "kat_draft.json").read_text())
    s = {k: bytes.fromhex(v) if isinstance(v, str) and k != "origin" else v
         for k, v in kat["session_fallback_only"].items()}
    origin = s["origin"].encode()
    who = lambda name, key: bytes.fromhex(kat["device_" + name][key])
    dev_a, dev_b = who("alice", "device_id"), who("bob", "device_id")
    acct_a, acct_b = who("alice", "account_id_placeholder"), who("bob", "account_id_placeholder")

    sealed = nx_seal(s["cek"], "nexo/1/payload", s["payload_aad"], s["payload_plaintext"],
                     s["payload_rand32"])
    assert sealed == s["sealed_payload"], "payload of kat_draft.json"
    old = nx_seal(s["mk0"], "nexo/1/keypacket", s["kp_aad"], s["cek"], s["kp_rand32"])
    assert old == s["sealed_keypacket"], "key packet of kat_draft.json"

    pd = H(enc("nexo/1/payload-digest", [s["payload_aad"], sealed]))
    mk = expand(s["rk0"], enc("nexo/1/oneshot", [s["session_id"]]), 32)
    assert mk == s["oneshot_mk_from_rk0"]
    ek_a = s["kp_header"][58:90]
    header = (b"\x01\x03" + s["session_id"] + bytes(40) + ek_a + struct.pack(">I", s["fpk_id"])
              + bytes(5) + s["kem_ct"])
    aad_kp = enc("nexo/1/kp-aad", [origin, acct_a, dev_a, acct_b, dev_b, s["conv_id"],
                                   s["msg_id"], pd, header])
    kp = header + nx_seal(mk, "nexo/1/keypacket", aad_kp, s["cek"], s["kp_rand32"])
    eh = H(enc("nexo/1/envelope", [s["payload_aad"], pd, dev_b + H(kp)]))
    leaf = enc("nexo/1/leaf", [b"\x02", eh])
    tombstone_leaf = enc("nexo/1/leaf", [b"\x03", H(s["tombstone_message"]),
                                         H(s["tombstone_sig"])])
    note = ("made by scripts/kat_oneshot.py from session_fallback_only of kat_draft.json; "
            "tombstone_leaf is over the tombstone of that session")
    out = {"note": note, "key_packet": kp.hex(), "kp_aad_sha256": H(aad_kp).hex(),
           "envelope_hash": eh.hex(), "message_leaf": leaf.hex(),
           "tombstone_leaf": tombstone_leaf.hex(),
           "fingerprint_bob": "nexo1:" + base64.b32encode(acct_b).decode().lower().rstrip("=")}
    (HERE / "kat_oneshot.json").write_text(json.dumps(out, indent=2) + "\n")


main()
