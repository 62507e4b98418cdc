"""Every partition, crash and pause case, by its number, and where it is shown: a story of this directory, or tests elsewhere.

A story is ``name.txt``, a test is ``path::function``. Numbers are the ones that stories begin with.
"""

HA = "tests/core/test_ha.py"

CASES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("the peer link is cut, both reach gateway and clients", ("cut_peer_link_only.txt",)),
    2: ("peer link and LAN between the servers are cut, both reach the gateway", ("both_serve_then_meet.txt",)),
    3: ("the gateway is gone, the peer is there", ("gateway_gone.txt",)),
    4: ("the gateway is gone, then the peer is lost", ("gateway_mute_then_peer_lost.txt",)),
    5: ("the active loses every cable", ("isolate_active.txt",)),
    6: ("the stale server's cable returns after the fresh one died", ("isolated_stale_server_stays_out.txt",)),
    7: ("one-way loss on the peer link", ("one_way_loss_on_the_link.txt",)),
    8: ("one-way loss from the active on all paths", ("deaf_passive.txt",)),
    9: ("one-way loss from the passive on all paths", ("deaf_active.txt",)),
    10: ("a lossy peer link", ("lossy_link.txt",)),
    11: ("a slow peer link", ("slow_link.txt", "very_slow_link.txt")),
    12: ("large packets vanish", ("hole_in_the_mtu.txt", "hole_in_the_mtu_stays.txt")),
    13: ("the active is stopped and goes on", ("freeze_active.txt",)),
    14: ("the passive is stopped and goes on", ("freeze_passive.txt",)),
    15: ("a machine is suspended", ("suspended_active.txt", "suspended_passive.txt")),
    16: ("wall clocks jump", ("wall_clock_jumps.txt",)),
    17: ("the passive's disk is full", ("full_disk_of_the_passive.txt",)),
    18: ("the active's disk is full", ("full_disk_of_the_active.txt",)),
    19: (
        "a flush fails on the active",
        (
            "flush_error_of_the_active.txt",
            "tests/store/test_writer.py::test_the_end_of_the_process_is_said_with_what_why_and_fix",
        ),
    ),
    20: ("a flush fails on the passive", ("flush_error_of_the_passive.txt",)),
    21: ("a disk lies about its flushes, then the power is cut", ("lying_disk.txt",)),
    22: (
        "a torn page or meta page",
        (
            "both_lose_power.txt",
            "tests/store/test_crash_images.py::test_a_power_cut_leaves_a_passive_the_last_acknowledged_transaction_or_a_later_one",
        ),
    ),
    23: (
        "the passive crashes inside a batch of pages",
        (
            "tests/store/test_crash_images.py::test_a_kill_at_any_named_point_loses_nothing_acknowledged",
            "tests/store/test_crash_images.py::test_a_power_cut_leaves_a_passive_the_last_acknowledged_transaction_or_a_later_one",
        ),
    ),
    24: ("both crash, the fresh one returns first", ("both_killed_fresh_first.txt",)),
    25: ("both crash, the stale one returns first", ("both_killed_stale_first.txt",)),
    26: ("both crash while paired, one never returns", ("one_of_two_never_returns.txt", "resume_alone.txt")),
    27: ("both return, one with a longer tail", ("both_lose_power.txt",)),
    28: ("the passive is out of sync when the active dies", ("active_dies_while_the_other_copies.txt",)),
    29: ("the active dies during a copy", ("active_dies_while_the_other_copies.txt",)),
    30: ("the passive dies during a copy", ("passive_dies_during_the_copy.txt",)),
    31: ("the active dies before its grant is taken", ("active_dies_before_the_grant.txt",)),
    32: ("flapping links", ("flapping_link.txt",)),
    33: ("antiphase: each sees the gateway when the other does not", ("antiphase.txt",)),
    34: (
        "both are configured as the same server",
        (
            "tests/core/test_contact.py::test_a_foreign_cluster_or_node_is_no_contact_and_is_named",
            f"{HA}::test_t2_needs_a_peer_that_fits",
        ),
    ),
    35: (
        "a stranger connects",
        (
            "tests/transport/test_peer_link.py::test_only_the_peers_key_is_admitted",
            "tests/transport/test_peer_link.py::test_a_foreign_connection_that_is_first_does_not_take_the_slot",
        ),
    ),
    36: ("versions or page sizes do not fit", (f"{HA}::test_t2_needs_a_peer_that_fits",)),
    37: (
        "a page is damaged on its way",
        (
            "tests/store/test_replica.py::test_damaged_pages_are_refused_and_the_good_ones_taken_afterwards",
            "tests/core/test_shipment.py::test_a_flipped_bit_is_refused_or_changes_the_position",
        ),
    ),
    38: (
        "a bit rots on one disk",
        (
            "rot_on_the_passive.txt",
            "rot_on_the_active.txt",
            "rot_on_a_server_alone.txt",
            "tests/store/test_rejoin.py::test_pages_that_rotted_are_found_and_sent_where_the_position_is_not_trusted",
        ),
    ),
    39: (
        "the store outgrows the passive's file or disk",
        (
            "tests/store/test_page_file.py::test_the_free_list_difference_is_the_tree_difference_and_the_replica_is_the_source",
            "tests/store/test_page_file.py::test_a_full_disk_is_told_apart_from_a_broken_one",
            "full_disk_of_the_passive.txt",
        ),
    ),
    40: (
        "the gateway is the server itself, its peer, or behind the peer link",
        ("tests/test_config.py::test_what_is_wrong_is_refused_with_what_why_and_cure",),
    ),
    41: (
        "ping is missing or filtered",
        (
            "tests/transport/test_gateway.py::test_a_missing_ping_is_a_failed_probe",
            "tests/transport/test_gateway.py::test_a_gateway_that_does_not_answer_has_failed_by_the_deadline",
        ),
    ),
    42: ("the gateway restarts while the passive decides", ("gateway_restarts_while_deciding.txt",)),
    43: (
        "a client is connected to an old active",
        ("freeze_active.txt", "tests/client/test_client.py::test_a_zombie_with_a_lower_epoch_is_not_obeyed"),
    ),
    44: (
        "unconfirmed sends at a failover",
        ("kill_active.txt", "tests/client/test_client.py::test_a_stored_but_unconfirmed_send_is_not_stored_twice"),
    ),
    45: ("an acknowledgement is lost at a failover", ("kill_active.txt",)),
    46: ("clients reach only one server", ("clients_see_one_server_each.txt",)),
    47: (
        "an old image of a disk is put back",
        (
            "restored_disk.txt",
            "restored_disk_of_the_active.txt",
            "tests/core/test_position.py::test_a_common_point_below_what_the_peer_once_held_is_divergence",
        ),
    ),
    48: ("a planned stop of the active", ("planned_stop.txt",)),
    49: ("a planned stop of the passive", ("planned_stop_of_the_passive.txt",)),
    50: ("a stuck loop or a stuck store thread", ("stuck_loop.txt", "stuck_disk_of_the_passive.txt")),
}
