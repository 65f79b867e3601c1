"""Keys and JSON Web Tokens, good and bad ones.

Tokens are put together here by hand, because a library refuses to make most of what an attacker sends."""
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_HASHES = {"256": (hashes.SHA256, hashlib.sha256), "384": (hashes.SHA384, hashlib.sha384),
           "512": (hashes.SHA512, hashlib.sha512)}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encode(header, claims, sign):
    """header and claims: dicts, or bytes to use as they are. sign(bytes) -> signature bytes."""
    def part(value):
        return b64(value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode())
    text = part(header) + "." + part(claims)
    return text + "." + b64(sign(text.encode()))


def unsigned(claims, alg="none", **header):
    return encode({"alg": alg, "typ": "JWT", **header}, claims, lambda text: b"")


def hmac_signed(claims, secret, alg="HS256", **header):
    return encode({"alg": alg, "typ": "JWT", **header}, claims,
                  lambda text: hmac.new(secret, text, _HASHES[alg[2:]][1]).digest())


class Key:
    """An RSA key; public_file holds its public half as PEM."""

    def __init__(self, directory, name="auth"):
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        private_file = directory / f"{name}.key"
        self.public_file = directory / f"{name}.pub"
        if private_file.exists():
            self.private = serialization.load_pem_private_key(private_file.read_bytes(), None)
        else:
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            private_file.touch(mode=0o600)
            private_file.write_bytes(self.private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        self.public_pem = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.public_file.write_bytes(self.public_pem)

    def signature(self, text, alg):
        digest = _HASHES[alg[2:]][0]()
        if alg.startswith("PS"):
            return self.private.sign(text, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        return self.private.sign(text, padding.PKCS1v15(), digest)

    def sign(self, claims, alg="RS256", **header):
        """Any claims (dict, or bytes as they are), any further header members."""
        return encode({"alg": alg, "typ": "JWT", **header}, claims, lambda text: self.signature(text, alg))

    def token(self, sub="1", exp=3600, alg="RS256", header=None, **claims):
        """A token as the auth service makes it. exp: seconds from now, None for none; sub None for none."""
        all_claims = {"iss": "https://auth.example.org", "iat": int(time.time()), **claims}
        if sub is not None:
            all_claims["sub"] = sub
        if exp is not None:
            all_claims["exp"] = int(time.time() + exp)
        return self.sign(all_claims, alg, **(header or {}))
