#!/usr/bin/env python3
print("tidy: rules follow")
