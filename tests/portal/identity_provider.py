"""A small OpenID Connect provider on loopback: real HTTP, real signatures, and knobs to lie with."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class IdentityProvider:
    """Signs whoever asks in as `claims`; `lies` replace or (None) remove claims of the ID token."""

    client_id, client_secret = "portal", "a secret between the two"

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {
            "sub": "u-1",
            "email": "dora@example.org",
            "email_verified": True,
            "name": "Dora",
        }
        self.lies: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.algorithm = "RS256"
        self.key = self.published_key = KEY
        self.is_down = False
        self.signed_out: list[dict[str, str]] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.issuer = self.url
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._send(*provider.get(parts.path, query))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._send(*provider.token({name: values[0] for name, values in parse_qs(body).items()}))

            def _send(self, status: int, answer: Any) -> None:
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", answer)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *args: Any) -> None:
                pass

        return Handler

    def get(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if self.is_down:
            return 503, {}
        if path == "/.well-known/openid-configuration":
            return 200, self._description()
        if path == "/authorize":
            return self._authorize(query)
        if path == "/keys":
            jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self.published_key.public_key(), as_dict=True)
            return 200, {"keys": [{**jwk, "kid": "k1", "alg": "RS256", "use": "sig"}]}
        if path == "/userinfo":
            return 200, {"sub": self.claims["sub"], **self.userinfo}
        if path == "/logout":
            self.signed_out.append(query)
            return 302, query["post_logout_redirect_uri"]
        return 404, {}

    def _description(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "jwks_uri": f"{self.url}/keys",
            "end_session_endpoint": f"{self.url}/logout",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }

    def _authorize(self, query: dict[str, str]) -> tuple[int, Any]:
        assert query["response_type"] == "code"
        assert query["client_id"] == self.client_id
        assert query["code_challenge_method"] == "S256"
        assert len(query["nonce"]) >= 22
        assert len(query["state"]) >= 16
        code = secrets.token_urlsafe(8)
        self._codes[code] = query
        return 302, f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str]) -> tuple[int, Any]:
        asked = self._codes.pop(form["code"], None)
        proof = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=")
        if asked is None or proof.decode() != asked["code_challenge"] or form["client_secret"] != self.client_secret:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": self.client_id, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims = {name: value for name, value in {**claims, **self.claims, **self.lies}.items() if value is not None}
        key = {"RS256": self.key, "HS256": self.client_secret, "none": None}[self.algorithm]
        signed = jwt.encode(claims, key, algorithm=self.algorithm, headers={"kid": "k1"})
        return 200, {"access_token": "opaque", "token_type": "Bearer", "expires_in": 300, "id_token": signed}
