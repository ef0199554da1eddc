"""Who may have signed what: the checks that stand between storing a record and acting on it."""

from __future__ import annotations

from protocol.errors import RemoteProtocolError
from protocol.ids import job_id, revision_of
from protocol.records import Acceptance, Assignment, Keyring, Result, Role, Spec, Verdict
from protocol.wire import Sealed, open_sealed


def verified_spec(data: bytes, keyring: Keyring) -> Sealed:
    """A spec record to act on: of our shoal, its id as its key gives it, its author a submitter.

    Raises RemoteProtocolError.
    """
    return checked_spec(open_sealed(data, keyring), keyring)


def checked_spec(sealed: Sealed, keyring: Keyring) -> Sealed:
    """The same of a record that was opened before. Raises RemoteProtocolError."""
    spec = sealed.record
    if not isinstance(spec, Spec):
        raise RemoteProtocolError("a spec record is needed")
    if spec.shoal != keyring.shoal:
        raise RemoteProtocolError("a job of another shoal")
    if spec.job != job_id(spec.shoal, spec.namespace, spec.kind, spec.key):
        raise RemoteProtocolError("a job id that its key does not give")
    if not sealed.author_holds(Role.SUBMIT, spec.namespace):
        raise RemoteProtocolError(f"{sealed.author} may not submit in {spec.namespace}")
    return sealed


def verified_assignment(data: bytes, spec: Sealed, keyring: Keyring) -> Assignment:
    """An award of a slot of `spec`, signed by the coordinator its fence names.

    Raises RemoteProtocolError.
    """
    assignment = signed_assignment(data, keyring)
    if not isinstance(spec.record, Spec) or spec.record.job != assignment.job:
        raise RemoteProtocolError("an assignment of another job")
    if assignment.revision != revision_of(spec.body):
        raise RemoteProtocolError("an assignment of another revision")
    return assignment


def signed_assignment(data: bytes, keyring: Keyring) -> Assignment:
    """An award signed by the coordinator its fence names. Raises RemoteProtocolError."""
    sealed = open_sealed(data, keyring)
    assignment = sealed.record
    if not isinstance(assignment, Assignment):
        raise RemoteProtocolError("an assignment record is needed")
    if sealed.author != assignment.fence.coordinator:
        raise RemoteProtocolError("an assignment is signed by its coordinator")
    _require_coordinator(sealed)
    return assignment


def _require_coordinator(sealed: Sealed) -> None:
    """Who may not submit may not decide about others' jobs either (DESIGN 4: `--role compute`)."""
    if not sealed.author_holds(Role.SUBMIT):
        raise RemoteProtocolError(f"{sealed.author} may not coordinate")


def verified_result(data: bytes, keyring: Keyring) -> Result:
    """A result signed by the executor it names. Raises RemoteProtocolError."""
    sealed = open_sealed(data, keyring)
    result = sealed.record
    if not isinstance(result, Result):
        raise RemoteProtocolError("a result record is needed")
    if sealed.author != result.executor:
        raise RemoteProtocolError("a result is signed by its executor")
    return result


def verified_acceptance(data: bytes, keyring: Keyring) -> Acceptance:
    """A choice of a result, with that result inside: a success cannot be claimed without one.

    It is read again for every view of the job, and must not fail then. Raises RemoteProtocolError.
    """
    sealed = open_sealed(data, keyring)
    acceptance = sealed.record
    if not isinstance(acceptance, Acceptance):
        raise RemoteProtocolError("an acceptance record is needed")
    _require_coordinator(sealed)
    success = acceptance.verdict == Verdict.SUCCESS
    if not acceptance.result:
        if success:
            raise RemoteProtocolError("a success without its result")
        return acceptance
    result = verified_result(acceptance.result, keyring)
    if success != (result.verdict == Verdict.SUCCESS):
        raise RemoteProtocolError("an acceptance that says otherwise than its result")
    accepted = (acceptance.job, acceptance.revision, acceptance.slot, acceptance.fence)
    if accepted != (result.job, result.revision, result.slot, result.fence):
        raise RemoteProtocolError("an acceptance of another execution's result")
    return acceptance
