"""What the benchmark of an idle site makes of its counts."""

from __future__ import annotations

from collections import Counter

from benchmarks.idle_traffic import PACKET, _estimate, _way, page


def test_counts_are_brought_to_an_hour():
    way = _way(Counter({64: 8, 100: 1}), Counter({64: 8}), 360.0)
    assert way == {
        "pieces": {"64": 8, "100": 1},
        "bytes_an_hour": 10 * (8 * 64 + 100),
        "tcp_ip_estimate_an_hour": 10 * PACKET * (9 + 8),
    }


def test_pings_are_sent_only_where_heartbeats_are_rare():
    name = "keepalive pings and answers, of both sides"
    assert _estimate(15.0)[name] == 0
    assert _estimate(60.0)[name] > 0
    assert _estimate(7.5)["heartbeats"] == 2 * _estimate(15.0)["heartbeats"]


def test_the_page_shows_both_ways():
    row = _way(Counter({64: 8}), Counter({64: 8}), 120.0)
    result = {"seconds": 120.0, "heartbeat_seconds": 15.0, "connections": 1, "up": row, "down": row}
    text = page({**result, "estimate_an_hour": {"heartbeats": 9120}})
    assert "| site to server | 15360 | 24960 | 64 x 8 |" in text
    assert "heartbeats 9120" in text
