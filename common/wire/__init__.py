"""The wire: `fedwon.proto`, its generated stubs, and what turns Flower's messages into it and back."""
