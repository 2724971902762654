BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	action VARCHAR NOT NULL, 
	subject VARCHAR NOT NULL, 
	detail VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "audit" VALUES(1,'2026-11-25 01:56:52.857215','token made','metal','valid for 24 h');
INSERT INTO "audit" VALUES(2,'2026-11-25 01:56:52.900880','certificate issued','metal','until 2026-12-25');
INSERT INTO "audit" VALUES(3,'2026-11-25 01:56:52.921446','token made','paper','valid for 24 h');
INSERT INTO "audit" VALUES(4,'2026-11-25 01:56:52.939518','certificate issued','paper','until 2026-12-25');
INSERT INTO "audit" VALUES(5,'2026-11-25 01:56:52.966787','token made','glass','valid for 24 h');
INSERT INTO "audit" VALUES(6,'2026-11-25 01:56:52.989220','certificate issued','glass','until 2026-12-25');
INSERT INTO "audit" VALUES(7,'2026-11-25 01:56:53.006811','token made','open','valid for 24 h');
CREATE TABLE metrics (
	run VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	site VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	PRIMARY KEY (run, round, site, "key"), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',0,'metal','validation-loss',1.4189366700893297768e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',0,'metal','validation-correct',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',0,'metal','validation-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','num-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','train-loss',1.40361390113830575288e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','train-seconds',6.06632130002253688871e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','steps',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','clipped-fraction',6.79012345679012307986e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','corrupt-images',0.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',0,'paper','validation-loss',1.4497218738267982907e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',0,'paper','validation-correct',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',0,'paper','validation-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','num-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','train-loss',1.41102576255798339843e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','train-seconds',0.0447800729998562);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','steps',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','clipped-fraction',6.58436213991769464515e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','corrupt-images',0.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','validation-loss',1.42937334190090536978e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','validation-correct',4.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'metal','validation-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','num-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','train-loss',1.33158555030822745024e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','train-seconds',4.62117389979539439082e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','steps',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','clipped-fraction',4.73251028806584358998e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','corrupt-images',0.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','validation-loss',1.45209150758501293054e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','validation-correct',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',1,'paper','validation-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','num-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','train-loss',1.31766314506530757277e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','train-seconds',2.86529679979139473289e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','steps',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','clipped-fraction',6.17283950617283916351e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','corrupt-images',0.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','validation-loss',1.43153883553787908411e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','validation-correct',5.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'metal','validation-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','num-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','train-loss',1.26616978645324707031e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','train-seconds',8.29085449986450839787e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','steps',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','clipped-fraction',5.34979423868312750633e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','corrupt-images',0.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','validation-loss',1.45702769140987209439e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','validation-correct',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',2,'paper','validation-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','num-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','train-loss',1.2547940254211424893e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','train-seconds',5.0172570998256560415e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','steps',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','clipped-fraction',6.37860082304526759822e-02);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','corrupt-images',0.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','validation-correct',4.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','validation-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'metal','validation-loss',1.43000544011323116322e+00);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','validation-correct',3.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','validation-examples',20.0);
INSERT INTO "metrics" VALUES('tiny-20261125-015653-d4b4',3,'paper','validation-loss',1.46126203486137873355e+00);
CREATE TABLE rounds (
	run VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	path VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	size INTEGER NOT NULL, 
	seconds DOUBLE NOT NULL, 
	committed DATETIME NOT NULL, 
	PRIMARY KEY (run, number), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "rounds" VALUES('tiny-20261125-015653-d4b4',0,'round-0000.safetensors','904ac003d8dd85d50b70bee89f2ffa8ceaf6df93e9355e28056bf825839cc805',191024,0.0,'2026-11-25 01:56:53.112232');
INSERT INTO "rounds" VALUES('tiny-20261125-015653-d4b4',1,'round-0001.safetensors','1cc85b1bd6c2b266fadadc3c6d313b9d148e58cd7bdb42468d659c159ae61cb2',191024,4.66259679000359028577e-01,'2026-11-25 01:56:53.646573');
INSERT INTO "rounds" VALUES('tiny-20261125-015653-d4b4',2,'round-0002.safetensors','3c1f8395e6cd97035dd435412a28cb52db4a9135a483e2d7a00d92e0c3d35195',191024,9.70609964999312069267e-01,'2026-11-25 01:56:54.682133');
INSERT INTO "rounds" VALUES('tiny-20261125-015653-d4b4',3,'round-0003.safetensors','bffe8cc50978605a0a7166c590bbb332fc6c242485ebb293540c879f4bafec5d',191024,3.88908519002143293619e-01,'2026-11-25 01:56:55.158126');
INSERT INTO "rounds" VALUES('second-20261125-015655-0a81',0,'round-0000.safetensors','93759737d657d2170fd16b9779b687f9771c1bc79164922b1779251b8182e6b3',191024,0.0,'2026-11-25 01:56:55.351038');
CREATE TABLE runs (
	id VARCHAR NOT NULL, 
	config JSON NOT NULL, 
	classes JSON NOT NULL, 
	state VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	made DATETIME NOT NULL, 
	ended DATETIME, 
	PRIMARY KEY (id)
);
INSERT INTO "runs" VALUES('tiny-20261125-015653-d4b4','{"name": "tiny", "method": "fedwon", "recipe": "tuned", "seed": 7, "rounds": 3, "classes": null, "model": {"name": "digit_cnn", "width": 0.05, "relu_constant": true, "linear": "standardized", "dropout": 0.0, "skip_gain": 1.75, "ablation": {"standardized": true, "gain": true}}, "pretrained": null, "images": {"size": 28, "channels": 1, "mean": [0.5], "std": [0.5], "standardize": "alike", "validation_fraction": 0.2, "max_train": 20, "missing_classes": "allow", "unknown_classes": "refuse"}, "training": {"epochs": 1, "steps": null, "batch_size": 8, "lr": 0.02, "schedule": "constant", "warmup_rounds": 0, "momentum": 0.0, "weight_decay": 0.0, "clipping": 0.64, "proximal_mu": null, "augmentation": {"flip_horizontal": false, "flip_vertical": false, "turn_degrees": 0.0}, "weights_sent": "raw"}, "participation": {"minimum": 2, "fraction": 1.0, "quorum": null, "patience_seconds": null, "deadline_seconds": 3600.0, "away_seconds": 300.0, "late_rounds": 0, "retries": 2, "pause_seconds": null}, "aggregation": {"weights": "examples", "weight_cap": 10.0, "staleness": 0.5}}','["0", "1", "2", "3"]','finished','','2026-11-25 01:56:53.111720','2026-11-25 01:56:55.304370');
INSERT INTO "runs" VALUES('second-20261125-015655-0a81','{"name": "second", "method": "fedwon", "recipe": "tuned", "seed": 7, "rounds": 5, "classes": null, "model": {"name": "digit_cnn", "width": 0.05, "relu_constant": true, "linear": "standardized", "dropout": 0.0, "skip_gain": 1.75, "ablation": {"standardized": true, "gain": true}}, "pretrained": null, "images": {"size": 28, "channels": 1, "mean": [0.5], "std": [0.5], "standardize": "alike", "validation_fraction": 0.2, "max_train": 20, "missing_classes": "allow", "unknown_classes": "refuse"}, "training": {"epochs": 1, "steps": null, "batch_size": 8, "lr": 0.02, "schedule": "constant", "warmup_rounds": 0, "momentum": 0.0, "weight_decay": 0.0, "clipping": 0.64, "proximal_mu": null, "augmentation": {"flip_horizontal": false, "flip_vertical": false, "turn_degrees": 0.0}, "weights_sent": "raw"}, "participation": {"minimum": 2, "fraction": 1.0, "quorum": null, "patience_seconds": null, "deadline_seconds": 3600.0, "away_seconds": 300.0, "late_rounds": 0, "retries": 2, "pause_seconds": null}, "aggregation": {"weights": "examples", "weight_cap": 10.0, "staleness": 0.5}}','["0", "1", "2", "3"]','stopped','The server was stopped.','2026-11-25 01:56:55.350693','2026-11-25 01:56:55.370932');
CREATE TABLE sites (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	enrolled DATETIME NOT NULL, 
	expires DATETIME NOT NULL, 
	last_seen DATETIME, 
	connected BOOLEAN NOT NULL, 
	version VARCHAR, 
	data JSON, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "sites" VALUES(1,'metal','2026-11-25 01:56:52.901713','2026-12-25 01:56:52.898243','2026-11-25 01:56:52.919236',1,'0.1.0','{"0": {"train": 16, "validation": 4, "test": 5}}');
INSERT INTO "sites" VALUES(2,'paper','2026-11-25 01:56:52.939757','2026-12-25 01:56:52.938235','2026-11-25 01:56:52.955129',1,'0.1.0','{"0": {"train": 16, "validation": 4, "test": 5}}');
INSERT INTO "sites" VALUES(3,'glass','2026-11-25 01:56:52.989392','2026-12-25 01:56:52.988058','2026-11-25 01:56:52.999076',0,'0.1.0','{"0": {"train": 16, "validation": 4, "test": 5}}');
CREATE TABLE tasks (
	id VARCHAR NOT NULL, 
	run VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	site VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	bytes_down INTEGER NOT NULL, 
	bytes_up INTEGER NOT NULL, 
	seconds DOUBLE NOT NULL, 
	made DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "tasks" VALUES('tiny-20261125-015653-d4b4.r0001.train.metal','tiny-20261125-015653-d4b4',1,'metal','train','averaged','',0,0,1.36908491000212961807e-01,'2026-11-25 01:56:53.153627');
INSERT INTO "tasks" VALUES('tiny-20261125-015653-d4b4.r0001.train.paper','tiny-20261125-015653-d4b4',1,'paper','train','averaged','',0,0,0.0927929560020857,'2026-11-25 01:56:53.175325');
INSERT INTO "tasks" VALUES('tiny-20261125-015653-d4b4.r0002.train.metal','tiny-20261125-015653-d4b4',2,'metal','train','averaged','',0,0,8.11617700019269250333e-02,'2026-11-25 01:56:53.690793');
INSERT INTO "tasks" VALUES('tiny-20261125-015653-d4b4.r0002.train.paper','tiny-20261125-015653-d4b4',2,'paper','train','averaged','',0,0,6.94579744998918613418e-01,'2026-11-25 01:56:53.707439');
INSERT INTO "tasks" VALUES('tiny-20261125-015653-d4b4.r0003.train.metal','tiny-20261125-015653-d4b4',3,'metal','train','averaged','',0,0,1.16092784002830740064e-01,'2026-11-25 01:56:54.735963');
INSERT INTO "tasks" VALUES('tiny-20261125-015653-d4b4.r0003.train.paper','tiny-20261125-015653-d4b4',3,'paper','train','averaged','',0,0,8.80807370012917090207e-02,'2026-11-25 01:56:54.759367');
INSERT INTO "tasks" VALUES('second-20261125-015655-0a81.r0001.train.metal','second-20261125-015655-0a81',1,'metal','train','sent','',0,0,0.0,'2026-11-25 01:56:55.359273');
CREATE TABLE tokens (
	digest VARCHAR NOT NULL, 
	site VARCHAR NOT NULL, 
	made DATETIME NOT NULL, 
	expires DATETIME NOT NULL, 
	used DATETIME, 
	PRIMARY KEY (digest)
);
INSERT INTO "tokens" VALUES('4590ac0dc800fa0472060a6918aeaaf77a2eaed3d09df1ae94d12f08bb356b8b','metal','2026-11-25 01:56:52.862425','2026-11-26 01:56:52.848052','2026-11-25 01:56:52.882585');
INSERT INTO "tokens" VALUES('e4e4bf3469323227c7700cc134da02f29a92b2b11d8c9bc3e50bb9725412edc6','paper','2026-11-25 01:56:52.921600','2026-11-26 01:56:52.921065','2026-11-25 01:56:52.927227');
INSERT INTO "tokens" VALUES('c311219a765c1493e895671c93448944d3a6941b5d8a4d124f2c4fd2c16f68c9','glass','2026-11-25 01:56:52.966990','2026-11-26 01:56:52.966321','2026-11-25 01:56:52.977922');
INSERT INTO "tokens" VALUES('d93883d7a6ede8eda30800c312d7df817938c34e43782f25ff7d1138a8828b65','open','2026-11-25 01:56:53.007020','2026-11-26 01:56:53.006357',NULL);
CREATE INDEX ix_tasks_run ON tasks (run);
COMMIT;
