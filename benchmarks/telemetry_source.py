"""A PanAccess that does nothing but hand out records made before: `python -m … FOLDER RECORDS`.

It prints its port once it listens. Records lie in a file, so that a page costs next to nothing.
"""

import array
import json
import mmap
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

CHANNELS = 200
_HEAD, _TAIL = b'{"success":true,"answer":{"telemetryRecordEntries":[', b"]}}"


def record(n: int) -> dict[str, Any]:
    """Of six, one tells a name and five are views; the n-th is n thirds of a second past a day."""
    seconds, channel = n // 3, n * 7919 % CHANNELS
    date = f"2026-{1 + seconds // 2_419_200 % 12:02}-{1 + seconds // 86_400 % 28:02}"
    time = f"{date} {seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    tells = n % 6 == 0
    return {
        "recordId": 1_000_000 + 2 * n,
        "subscriberCode": f"S-{n * 104_729 % 50_021:06}",
        "deviceId": f"D-{n * 15_485_863 % 90_001:06}",
        "smartcardId": "",
        "anonymized": False,
        "actionId": 7 if tells else 8,
        "actionKey": "CHANNEL" if tells else "WATCHED",
        "date": date,
        "timestamp": time,
        "manual": None,
        "reasonId": 1,
        "reasonKey": "USER",
        "dataNetId": 1,
        "dataTsId": 20 + channel % 10,
        "dataServiceId": 1000 + channel,
        "dataId": channel,
        "dataName": f"Canal {channel}, edición {n // 100_000}" if tells else None,
        "dataPrice": None,
        "dataDuration": None if tells else n * 31 % 3600,
        "whoisCountry": "MX",
        "whoisIsp": "Red Ñandú",
        "ipId": n % 65_536,
        "ip": f"203.0.113.{n % 256}",
        "profileId": n % 4,
        "created": time,
    }


def main() -> None:
    path, count = Path(sys.argv[1], "records.json"), int(sys.argv[2])
    starts = array.array("Q", [0])
    with path.open("wb") as file:
        for n in range(count):
            line = json.dumps(record(n), ensure_ascii=False).encode() + b","
            file.write(line)
            starts.append(starts[-1] + len(line))
    with path.open("rb") as made, mmap.mmap(made.fileno(), 0, access=mmap.ACCESS_READ) as records:

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                asked = {name: values[0] for name, values in parse_qs(body).items()}
                if parse_qs(urlsplit(self.path).query)["f"] == ["login"]:
                    answer = b'{"success":true,"answer":"a-session"}'
                else:
                    first = min(int(asked["offset"]), count)
                    last = min(first + int(asked["limit"]), count)
                    # Without the comma after the last.
                    page = records[starts[first] : max(starts[first], starts[last] - 1)]
                    answer = _HEAD + page + _TAIL
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            print(server.server_address[1], flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
