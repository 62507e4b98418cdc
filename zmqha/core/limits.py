"""Every bound, with its unit and its reason. A buffer, a loop turn or a name without a row here is a bug."""

KIB = 1024
MIB = 1024 * KIB

# --- messages and batches ---------------------------------------------------------------------------------------------------
MESSAGE_BYTES_MAX = 8 * MIB  # one message; larger bodies are the application's to split (chunking comes later)
BATCH_MESSAGES_MAX = 1000  # one batch: enough that per-batch cost vanishes, few enough that a slice stays cheap
BATCH_BYTES_TARGET = 512 * KIB  # a client closes a batch here, so eight in flight stay near 4 MiB
BATCH_BYTES_MAX = MESSAGE_BYTES_MAX + 64 * KIB  # the largest batch frame a server takes: one largest message and its header
BATCHES_IN_FLIGHT = 8  # per producer and destination, unconfirmed
NAME_BYTES_MAX = 200  # a destination name; far below LMDB's key limit of 511 bytes with any prefix
PROPERTIES_BYTES_MAX = 64 * KIB  # per message; decoded only by clients

# --- frames -----------------------------------------------------------------------------------------------------------------
CLIENT_FRAME_BYTES_MAX = BATCH_BYTES_MAX + KIB  # ZMQ_MAXMSGSIZE of the client port
CONTROL_FRAME_BYTES_MAX = 64 * KIB  # ZMQ_MAXMSGSIZE of the control sockets: a Hello with 64 lineage entries is about 15 KiB
CHUNK_BYTES_MAX = MIB  # a shipment above this travels in pieces, so heartbeats and acknowledgements never wait long
BULK_FRAME_BYTES_MAX = CHUNK_BYTES_MAX + 512 * KIB  # a chunk and its tables of pages
HANDSHAKE_MS = 1000  # ZMQ_HANDSHAKE_IVL: whoever connects and says nothing is closed after this

# --- one turn of the reactor ------------------------------------------------------------------------------------------------
CLIENT_MESSAGES_PER_TURN = 128  # then peers and timers get their turn
PEER_MESSAGES_PER_TURN = 256
STORE_EVENTS_PER_TURN = 64
DELIVERS_PER_TURN = 1024  # about 20 ms: a burst to consumers with much credit must not look like an own gap
TURN_MS_MAX = 50  # poll timeout cap: an own gap is noticed against it

# --- commits and replication ------------------------------------------------------------------------------------------------
COMMITS_IN_STORE = 2  # one running, one waiting, so the store thread never idles between two group commits
COMMIT_BYTES_MAX = 4 * MIB  # waiting work that one group commit takes
WINDOW_SHIPMENTS = 4  # unacknowledged shipments
WINDOW_BYTES = 8 * MIB  # unacknowledged shipment bytes
PENDING_BYTES_MAX = 64 * MIB  # work accepted from clients and not yet committed; above it clients are not read
COPY_WINDOW_BYTES = 8 * MIB  # copy: sent and not yet acknowledged
COPY_BACKLOG_SHIPMENTS = 2048  # shipments held for a follower that is still closing its copy, so the active need not wait
COPY_BACKLOG_BYTES = 64 * MIB
COPY_TAIL_BYTES = 8 * MIB  # what a copy round may leave for the last, held round
COPY_TAIL_BYTES_MAX = 64 * MIB  # likewise after rounds that stayed long: read and queued at once, in well under a second
COPY_ROUNDS_MAX = 50  # of one copy: a follower that still lacks more than that then is let go (``core.pace`` needs 26)
TABLE_BYTES_MAX = 512 * KIB  # one piece of a table of pages: 256 MiB of store, and well inside a bulk frame
TABLE_PAGES_MAX = (
    1 << 23
)  # pages of a store that is compared (32 GiB): the table is 64 MiB in memory; a larger one is copied whole
DIGEST_PAGES_MAX = 1 << 25  # a store of 128 GiB: the sums of its pages then take 256 MiB of memory; above it there is no digest
LINEAGE_ENTRIES = 64  # kept epochs, among them the one in which the peer left
EPOCH_LEAP = 1_000_000  # epochs that a peer may have begun unseen: weeks of one in two seconds; the counter is a u64 on the wire

# --- merging after a divergence ---------------------------------------------------------------------------------------------
SALVAGE_BYTES_TARGET = 256 * KIB  # small batches that travel, are rewritten and are stored together: a turn of the loop each
SALVAGE_WINDOW_BYTES = 8 * MIB  # read from the kept store and not yet durable at the winner: one largest batch always fits
SALVAGE_WINDOW_ITEMS = 64  # likewise, in messages: far below what the bulk socket queues
DIFFERENCES_PER_FRAME = 1000  # a name of 200 bytes each: a quarter of a bulk frame
MERGE_REPORTS = 16  # kept in the store
MERGED_RANGES_MAX = 1000  # named in one report: about 30 KiB, written with each transaction of a merge
AUDIT_LINES_MAX = 200  # in one report
KEPT_DAYS = 7  # a kept store of a merge that is over
KEPT_BYTES_MAX = 16 << 30  # all kept stores together; the oldest goes first, never one whose merge is not over

# --- sessions ---------------------------------------------------------------------------------------------------------------
SESSIONS_MAX = 2000  # open client sessions
SUBSCRIPTIONS_PER_SESSION = 100
RANGES_PER_FRAME = 4096  # acknowledged or held ranges in one command
CREDIT_MESSAGES_MAX = 10_000  # a consumer's outstanding messages: bounds the ranges a cursor can hold
CREDIT_BYTES_MAX = 64 * MIB
DELIVER_BYTES_TARGET = 512 * KIB  # one DELIVER, cut at a message; at least one message
SESSION_SILENCE_MS = 10_000  # a session without any frame for this long is over; clients ping every second
REFUSED_RETRY_MS = 50  # what a refusing server asks a client to wait

# --- destinations -----------------------------------------------------------------------------------------------------------
DESTINATIONS_MAX = 10_000
QUEUE_MESSAGES_MAX = 100_000_000  # default limit of one queue
QUEUE_BYTES_MAX = 1 << 40  # default limit of one queue (1 TiB: in effect the disk)
PRODUCER_ROWS_MAX = 100_000  # (producer, destination) pairs kept for de-duplication
CACHE_BYTES = 64 * MIB  # recent batches kept in memory, so that delivery does not read the store
CACHE_BATCHES = 64 * KIB  # of them: each takes 250 bytes beside its content, so small ones would take three times what they hold

# --- operators --------------------------------------------------------------------------------------------------------------
ADMIN_BYTES_MAX = 64 * KIB  # an ADMIN request
