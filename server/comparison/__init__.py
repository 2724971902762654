"""`fedwon-server compare`: is a federation worth it for these lines, and by which method?"""
