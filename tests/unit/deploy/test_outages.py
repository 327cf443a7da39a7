"""Messages about a lost connection."""

from anomalib_unias.deploy.outages import Outage


def test_one_message_for_each_loss_and_each_return(caplog):
    outage = Outage("broker", "Results are kept.")
    outage.end()  # nothing was lost
    for _ in range(2):
        outage.begin(OSError("Connection refused."))
        outage.begin("timed out")
        outage.end()
        outage.end()
    assert caplog.messages == ["broker: Connection refused. Results are kept.", "broker is reachable again."] * 2
