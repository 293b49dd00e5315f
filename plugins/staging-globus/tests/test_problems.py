"""What errors of the SDK mean, and that their texts hold no secrets."""

from __future__ import annotations

import email.utils
import json

import globus_sdk
import pytest
import requests
from flowcore_staging_globus.problems import Problem, problem_of, retry_after, told

UUID = "037f054a-15cf-11e8-b611-0ac6873fc732"


def refused(status: int, body: object, headers: dict[str, str] | None = None) -> globus_sdk.TransferAPIError:
    response = requests.Response()
    response.status_code = status
    response.reason = "Reason"
    response._content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    response.headers.update({"Content-Type": "application/json", **(headers or {})})
    response.request = requests.Request("GET", "http://x/", headers={"Authorization": "Bearer the-secret"}).prepare()
    return globus_sdk.TransferAPIError(response)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes(status):
    problem = problem_of(refused(status, {"code": "C", "message": "m"}), "do it")
    assert problem.passing
    assert problem.text == f"cannot do it, Globus answers {status} C: m"


@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_what_does_not(status):
    problem = problem_of(refused(status, {"code": "C", "message": "m"}), "do it")
    assert not problem.passing
    assert not problem.needs_login


def test_an_answer_that_is_no_json():
    problem = problem_of(refused(502, "<html>Bad gateway</html>", {"Content-Type": "text/html"}), "do it")
    assert problem.passing
    assert problem.text == "cannot do it, Globus answers 502 Reason"


def test_consent():
    scope = f"urn:globus:auth:scope:transfer.api.globus.org:all[*https://auth.globus.org/scopes/{UUID}/data_access]"
    body = {"code": "ConsentRequired", "message": "Missing", "required_scopes": [scope, scope]}
    problem = problem_of(refused(403, body), "do it")
    assert problem.scopes == (scope, scope)
    assert problem.text.endswith(f"Run: flowcore globus-auth --consent {UUID}")


def test_consent_to_something_else():
    body = {"code": "ConsentRequired", "message": "Missing", "required_scopes": ["urn:other"]}
    problem = problem_of(refused(403, body), "do it")
    assert problem.text.endswith("It needs your consent to: urn:other. Give it in the web application of Globus")


def test_network():
    error = requests.ConnectionError(
        "HTTPConnectionPool(host='x'): NewConnectionError('[Errno 111] Connection refused')"
    )
    problem = problem_of(globus_sdk.GlobusConnectionError("ConnectionError on request", error), "do it")
    assert problem.passing
    assert problem.text == (
        "cannot do it, Globus is out of reach: ConnectionError on request ([Errno 111] Connection refused)"
    )
    odd = problem_of(globus_sdk.GlobusTimeoutError("TimeoutError on request", requests.ReadTimeout("odd")), "do it")
    assert odd.text.endswith("TimeoutError on request (ReadTimeout)")


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, None), ("7", 7), ("0.5", 0.5), ("-1", 0), (email.utils.formatdate(1090, usegmt=True), 90), ("soon", None)],
)
def test_retry_after(header, expected):
    assert retry_after(header, 1000) == expected


def test_a_date_that_is_over():
    assert retry_after(email.utils.formatdate(1, usegmt=True), 1000) == 0


def test_no_text_has_the_token():
    with pytest.raises(Problem) as caught, told("do it"):
        raise refused(401, {"code": "AuthenticationFailed", "message": "no"})
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "the-secret" not in f"{error.text} {error!r} {getattr(error, '__notes__', '')}"
    assert error.unauthorized
