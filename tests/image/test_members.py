"""Sharing: the owner offers, the member answers, strangers see nothing."""

from collections.abc import Callable

from tests.image.conftest import World

Run = Callable[..., None]


def test_offer_accept_withdraw(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.active(b"bytes")
        base = f"/v2/images/{image}"
        assert (await w.other.get(base)).status == 404
        assert (await w.member.post(f"{base}/members", {"member": "p2"})).json["status"] == "pending"
        await w.member.post(f"{base}/members", {"member": "p3"})
        assert (await w.other.get(base)).status == 200
        assert (await w.other.get(f"{base}/file")).body == b"bytes"
        assert [m["member_id"] for m in (await w.other.get(f"{base}/members")).json["members"]] == ["p2"]
        assert [m["member_id"] for m in (await w.member.get(f"{base}/members")).json["members"]] == ["p2", "p3"]
        assert (await w.other.get(f"{base}/members/p3")).status == 404
        assert (await w.other.put(f"{base}/members/p3", {"status": "accepted"})).status == 404
        assert (await w.other.post(f"{base}/members", {"member": "p4"})).status == 403
        assert (await w.other.delete(f"{base}/members/p2")).status == 403
        assert (await w.member.put(f"{base}/members/p2", {"status": "accepted"})).status == 403
        assert (await w.other.put(f"{base}/members/p2", {"status": "rejected"})).json["status"] == "rejected"
        assert (await w.member.delete(f"{base}/members/p2")).status == 204
        assert (await w.other.get(base)).status == 404
        assert (await w.client("member:p9").get(f"{base}/members")).status == 404

    run(story)


def test_only_shared_images_get_members_and_privacy_ends_sharing(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image()
        base = f"/v2/images/{image}"
        assert (await w.member.post(f"{base}/members", {"member": "p2"})).status == 200
        assert (await w.member.post(f"{base}/members", {"member": "p2"})).status == 409
        assert (await w.patch(image, ("replace", "/visibility", "private"))).status == 200
        assert (await w.other.get(base)).status == 404
        assert (await w.member.post(f"{base}/members", {"member": "p3"})).status == 403
        for body in ({"x": 1}, {"member": 5}, {"member": "m" * 256}):
            assert (await w.member.post(f"{base}/members", body)).status == 400

    run(story)


def test_quota(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image()
        replies = [(await w.member.post(f"/v2/images/{image}/members", {"member": f"m{i}"})).status for i in range(3)]
        assert replies == [200, 200, 413]
        assert len((await w.member.get(f"/v2/images/{image}/members")).json["members"]) == 2

    run(story, DEFAULT__image_member_quota=2)
