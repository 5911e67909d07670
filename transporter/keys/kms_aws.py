"""AWS KMS through boto3: Encrypt, Decrypt and DescribeKey with one symmetric key.

boto3 finds the credentials (environment, profile, instance…), signs, and reads the answers. The bytes themselves go by
kms_http.py: botocore's own transport reads an answer of any length, and its time-outs are for each read. The hook
``before-send`` is there to be answered in its place.

An encryption context binds what is wrapped, and shows in CloudTrail. Needs kms:Encrypt, kms:Decrypt, kms:DescribeKey.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any, Final

from transporter.errors import (
    ConfigError,
    KmsBadAnswer,
    KmsKeyDisabled,
    KmsRefused,
    KmsUnreachable,
    KmsWrongKey,
    TransporterError,
)
from transporter.keys.kms import (
    MAX_REFERENCE,
    MAX_WRAPPED_BY_KMS,
    Context,
    KmsKey,
    Provider,
    checked_plain,
    other_key,
)
from transporter.keys.kms_http import call
from transporter.kms_config import KmsConfig

_CREDENTIALS: Final = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_MISSING: Final = frozenset({"NotFoundException", "InvalidArnException", "InvalidKeyUsageException"})
_OTHER: Final = frozenset({"IncorrectKeyException", "InvalidCiphertextException"})
_OFF: Final = frozenset({"DisabledException", "KMSInvalidStateException"})
_NOT_READY: Final = frozenset(
    {
        "DependencyTimeoutException",
        "KMSInternalException",
        "KeyUnavailableException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Throttling",
        "ThrottlingException",
    }
)


class AwsKms:
    """See the head of the file."""

    provider = Provider.AWS

    def __init__(self, name: str, config: KmsConfig) -> None:
        self._name = name
        self._config = config
        self._lock = threading.Lock()
        self._made: Any = None
        self._known: KmsKey | None = None

    def may_be(self, reference: str) -> bool:
        """See `Kms`. An alias may stand for any key."""
        key = self._config.key
        return "alias/" in key or reference == key or reference.endswith(f":key/{key}")

    def key(self) -> KmsKey:
        """See `Kms`."""
        facts = self._ask("describe_key", KeyId=self._config.key).get("KeyMetadata")
        arn = facts.get("Arn") if isinstance(facts, dict) else None
        if not isinstance(facts, dict) or not isinstance(arn, str) or not 1 <= len(arn) <= MAX_REFERENCE:
            raise self._bad()
        account = self._config.account
        if account and arn.split(":")[4:5] != [account]:
            raise KmsRefused(
                f"the credentials lead [kms.{self._name}] to another AWS account than {account}",
                "use the credentials of that account, or correct account in config.toml",
            )
        if facts.get("KeyState") not in {"Enabled", None}:
            raise self._disabled()
        if facts.get("KeySpec", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
            raise KmsWrongKey(f"the key of [kms.{self._name}] is not a symmetric one", "make a symmetric key")
        self._known = KmsKey(self.provider, arn)
        return self._known

    def wrap(self, key: bytes, context: Context) -> bytes:
        """See `Kms`."""
        known = self._known or self.key()
        answer = self._ask("encrypt", KeyId=known.reference, Plaintext=key, EncryptionContext=context)
        wrapped = answer.get("CiphertextBlob")
        if not isinstance(wrapped, bytes) or not 1 <= len(wrapped) <= MAX_WRAPPED_BY_KMS:
            raise self._bad()
        return wrapped

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """See `Kms`. The key is named, so that AWS refuses what another key wrapped."""
        if not 1 <= len(wrapped) <= MAX_WRAPPED_BY_KMS:
            raise other_key(self._name)
        known = self._known or self.key()
        answer = self._ask("decrypt", KeyId=known.reference, CiphertextBlob=wrapped, EncryptionContext=context)
        plain = answer.get("Plaintext")
        if not isinstance(plain, bytes):
            raise self._bad()
        return checked_plain(self._name, plain)

    def _ask(self, operation: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - what boto3 takes
        import botocore.exceptions as aws

        try:
            answer = getattr(self._client(), operation)(**arguments)
        except aws.ClientError as error:
            raise self._told(error) from None
        except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError):
            raise KmsRefused(
                f"there are no AWS credentials for [kms.{self._name}]",
                "set them up as for any AWS program: environment, profile, or the instance's role",
            ) from None
        except (aws.NoRegionError, aws.InvalidRegionError, aws.ProfileNotFound, aws.InvalidConfigError) as error:
            raise ConfigError(f"[kms.{self._name}]: {_line(error)}", "write region = … in config.toml") from None
        except TransporterError:
            raise
        except Exception:
            # Its parser was not made for answers of somebody else, and stumbles over them in any way there is.
            raise self._bad() from None
        return answer if isinstance(answer, dict) else {}

    def _client(self) -> Any:  # noqa: ANN401 - boto3 makes its classes while it runs
        with self._lock:  # a session is not to be used by two threads; a client may
            if self._made is None:
                self._made = self._make_client()
            return self._made

    def _make_client(self) -> Any:  # noqa: ANN401
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise ConfigError(
                f"[kms.{self._name}] needs boto3, which is not installed", "install transporter-pair[kms]"
            ) from None
        config = Config(retries={"total_max_attempts": 1}, ignore_configured_endpoint_urls=True)
        client = boto3.session.Session().client(
            "kms",
            region_name=self._config.region or None,
            endpoint_url=self._config.endpoint or None,
            config=config,
        )
        client.meta.events.register("before-send.kms", self._send)
        return client

    def _send(self, request: Any, **_named: Any) -> Any:  # noqa: ANN401 - an event of botocore
        from botocore.awsrequest import AWSResponse

        headers = {
            key: value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for key, value in request.headers.items()
        }
        body = request.body if isinstance(request.body, bytes) else str(request.body or "").encode()
        answer = call(self._name, request.method, request.url, headers, body, ca_file=self._config.ca_file)
        return AWSResponse(request.url, answer.status, answer.headers, _Raw(answer.body))

    def _told(self, error: Any) -> Exception:  # noqa: ANN401 - ClientError
        facts = error.response if isinstance(error.response, dict) else {}
        code = str(facts.get("Error", {}).get("Code", ""))
        status = facts.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        for codes, tell in self._errors():
            if code in codes:
                return tell()
        if isinstance(status, int) and (status == 429 or status >= 500):
            return self._not_ready()
        return self._bad()

    def _errors(self) -> list[tuple[frozenset[str], Callable[[], Exception]]]:
        return [
            (_CREDENTIALS, self._refused),
            (_MISSING, self._missing),
            (_OTHER, lambda: other_key(self._name)),
            (_OFF, self._disabled),
            (_NOT_READY, self._not_ready),
        ]

    def _refused(self) -> KmsRefused:
        return KmsRefused(
            f"AWS refuses the credentials for [kms.{self._name}], or they may not use its key",
            "check whose credentials these are, and the key's policy",
        )

    def _missing(self) -> KmsWrongKey:
        return KmsWrongKey(
            f"AWS has no key {self._config.key!r} that [kms.{self._name}] could use in this account and region",
            "correct key, region or account in config.toml",
        )

    def _disabled(self) -> KmsKeyDisabled:
        return KmsKeyDisabled(
            f"the key of [kms.{self._name}] is switched off at AWS, or waits for its deletion",
            "switch it on again there, or cancel its deletion",
        )

    def _not_ready(self) -> KmsUnreachable:
        return KmsUnreachable(
            f"AWS answers for [kms.{self._name}] that it cannot work at the moment",
            "try again; nothing was changed",
        )

    def _bad(self) -> KmsBadAnswer:
        return KmsBadAnswer(
            f"what answers at the address of [kms.{self._name}] does not answer as AWS KMS does",
            "is this the address of the service? nothing was changed",
        )


class _Raw(io.BytesIO):
    """A body as botocore wants it: urllib3's answers have `stream`."""

    def stream(self, _amount: int = 0, decode_content: bool | None = None) -> Any:  # noqa: ANN401
        yield self.read()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
