"""Our closures against oslo.policy's own Enforcer, for every rule of every service, over random callers and targets."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg
from oslo_policy import _checks
from oslo_policy.policy import Enforcer

from kilonova.compute import policies as compute
from kilonova.core.context import Context
from kilonova.core.policy import Policy, PolicyError, Rule, credentials
from kilonova.identity import policies as identity
from kilonova.image import policies as image
from kilonova.network import policies as network
from kilonova.placement import policies as placement

SERVICES = {
    "identity": identity.RULES,
    "image": image.RULES,
    "placement": placement.RULES,
    "compute": compute.RULES,
    "network": network.RULES,
}
FEW = ("a", "b")
idents = st.sampled_from([*FEW, None])
contexts = st.builds(
    Context,
    user_id=idents,
    project_id=idents,
    domain_id=idents,
    user_domain_id=idents,
    project_domain_id=idents,
    system_scope=st.sampled_from(["all", None]),
    roles=st.lists(st.sampled_from(["admin", "manager", "member", "reader", "service", "other"]), unique=True).map(tuple),
    service_roles=st.sampled_from([(), ("service",)]),
)


class Field(_checks.Check):
    """Neutron's check of an attribute, which oslo.policy lets a service register."""

    def __init__(self, match: str) -> None:
        self.name, _, self.value = match.partition(":")[2].partition("=")

    def __str__(self) -> str:
        return f"field {self.name}={self.value}"

    def __call__(self, target: Any, creds: Any, enforcer: Any, current_rule: Any = None) -> bool:
        value = target.get(self.name)
        if value is None:
            return False
        if self.value.startswith("~"):
            return re.match(self.value[1:], str(value)) is not None
        return str(value) == self.value


def with_fields(check: Any) -> Any:
    if isinstance(check, _checks.GenericCheck) and check.kind == "field":
        return Field(check.match)
    for name in ("rule", "rules"):
        inner = getattr(check, name, None)
        if isinstance(inner, list):
            setattr(check, name, [with_fields(part) for part in inner])
        elif isinstance(inner, _checks.BaseCheck):
            setattr(check, name, with_fields(inner))
    return check


def their_enforcer(texts: dict[str, str]) -> Any:
    enforcer = Enforcer(cfg.ConfigOpts(), use_conf=False)
    enforcer.set_rules(Policy([Rule(name, text) for name, text in texts.items()]).parsed, use_conf=False)
    for name in texts:
        enforcer.rules[name] = with_fields(enforcer.rules[name])
    return enforcer


def their_creds(ctx: Context) -> dict[str, Any]:
    token = {"domain": ctx.domain_id, "project": ctx.project_domain_id, "user": ctx.user_domain_id}
    nested: dict[str, Any] = {}
    for name, ident in token.items():
        if ident is not None:
            nested[name] = {"id": ident} if name == "domain" else {"domain": {"id": ident}}
    return {**credentials(ctx), "token": nested}


def keys_of(rules: Any) -> list[str]:
    found = {key for rule in rules for key in re.findall(r"%\(([^)]*)\)s", rule.check)}
    found |= {m.partition(":")[2].partition("=")[0] for rule in rules for m in re.findall(r"field:([^\s)]*)", rule.check)}
    return sorted(found)


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_closures_decide_as_oslo_policy_does(service: str) -> None:
    rules = SERVICES[service]
    ours, theirs, keys = Policy(rules), their_enforcer({rule.name: rule.check for rule in rules}), keys_of(rules)
    values: list[Any] = [*FEW, "manager", "public", "network:x", "*", True, False]
    seen = {True: 0, False: 0}

    @settings(max_examples=30, deadline=None)
    @given(contexts, st.fixed_dictionaries({}, optional={key: st.sampled_from([*values, None]) for key in keys}))
    def agree(ctx: Context, target: dict[str, Any]) -> None:
        if None in (ctx.user_id, ctx.project_id, ctx.domain_id, ctx.user_domain_id, ctx.project_domain_id):
            # Two absences are equal to oslo.policy and not to us: the next test.
            target = {key: "b" if value is None else value for key, value in target.items()}
        creds = their_creds(ctx)
        for rule in rules:
            verdict = ours.allows(rule.name, ctx, target)
            seen[verdict] += 1
            assert verdict == bool(theirs.enforce(rule.name, dict(target), dict(creds))), (rule, ctx, target)

    agree()
    assert min(seen.values()) > len(rules), f"both verdicts must occur often: {seen}"


def test_two_absences_are_not_the_same_project() -> None:
    policy = Policy([Rule("own", "project_id:%(project_id)s"), Rule("global", "None:%(domain_id)s"), Rule("loose", "domain_id:None")])
    assert not policy.allows("own", Context(), {"project_id": None})
    assert not policy.allows("own", Context(), {})
    assert not policy.allows("own", Context(project_id="None"), {})
    assert policy.allows("own", Context(project_id="a"), {"project_id": "a"})
    assert policy.allows("global", Context(), {"domain_id": None})
    assert policy.allows("loose", Context(), {})
    assert not policy.allows("loose", Context(domain_id="a"), {})


def test_row_62_an_unknown_rule_fails_closed() -> None:
    policy = Policy([Rule("any", ""), Rule("default", "")])
    assert policy.allows("any", Context(), {})
    assert not policy.allows("nope", Context(roles=("admin",)), {})
    assert "nope" not in policy


def test_broken_rules_are_refused_at_start() -> None:
    for rules, words in (
        ([Rule("a", "rule:b")], "unknown rule b"),
        ([Rule("a", "rule:b"), Rule("b", "rule:a")], "refers to itself"),
        ([Rule("a", "http://evil/check")], "not supported"),
    ):
        with pytest.raises(PolicyError, match=words):
            Policy(rules)


def test_a_rule_that_does_not_parse_allows_nobody() -> None:
    policy = Policy([Rule("a", "role:admin or or"), Rule("b", "(role:admin")])
    assert not policy.allows("a", Context(roles=("admin",)), {})
    assert not policy.allows("b", Context(roles=("admin",)), {})


def test_overrides_replace_defaults_and_unknown_ones_are_told() -> None:
    policy = Policy([Rule("a", "role:admin"), Rule("b", "rule:a")], {"a": "role:member", "zz": "!"})
    assert policy.unknown_overrides == ["zz"]
    assert policy.allows("b", Context(roles=("member",)), {})
    assert not policy.allows("b", Context(roles=("admin",)), {})


def test_identity_says_what_it_says_in_keystone() -> None:
    """A few sentences of the default policy, so that a mistake in both engines would be seen."""
    policy = Policy(identity.RULES)
    manager = Context(user_id="u", domain_id="d", roles=("manager", "member", "reader"))
    grant = {"target.user.domain_id": "d", "target.project.domain_id": "d", "target.role.domain_id": None}
    assert policy.allows("identity:create_grant", manager, {**grant, "target.role.name": "member"})
    assert not policy.allows("identity:create_grant", manager, {**grant, "target.role.name": "admin"})
    assert not policy.allows("identity:create_grant", manager, {**grant, "target.user.domain_id": "e", "target.role.name": "member"})
    reader = Context(user_id="u", system_scope="all", roles=("reader",))
    assert policy.allows("identity:list_users", reader, {})
    assert not policy.allows("identity:create_user", reader, {})
    assert not policy.allows("identity:list_users", Context(user_id="u", project_id="p", roles=("reader",)), {"target.domain_id": None})
