"""The coordinator's own certificate: renewed in time, also after it expired."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from coordinator.upkeep import Upkeep
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import Identity
from tests.support.trust import found


def test_the_coordinators_certificate_is_renewed_at_two_thirds_and_after_expiry(tmp_path: Path) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    founded = found(tmp_path, now=now)
    folder, clock = tmp_path / "coordinator", [now.timestamp()]
    upkeep = Upkeep(CertificateAuthority.load(tmp_path / "ca"), folder, lambda: clock[0])
    assert not upkeep.renew_certificate() and 6.9 < upkeep.certificate_days() <= 7
    for days in (5, 40):
        clock[0] = (now + timedelta(days=days)).timestamp()
        assert upkeep.renew_certificate() and upkeep.certificate_days() > 6.9
        assert Identity.load(folder).certificate_pem != founded.coordinator.certificate_pem
        assert not upkeep.renew_certificate()
