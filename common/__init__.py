"""What server and site must agree on: configuration, wire, records, certificates, errors, methods, logging.

Importing it switches Flower's telemetry, update check and run-time installation off (see `quiet`), whoever imports it.
"""

from fedwon.common.quiet import no_telemetry

no_telemetry()
