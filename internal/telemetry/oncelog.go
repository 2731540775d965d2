package telemetry

import (
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// reasonLog logs each reason once in the life of the process, as info or as a warning.
// Later it logs the reason at level debug.
var reasonLog onceLog

type onceLog struct{ seen sync.Map }

func (l *onceLog) info(logger *zap.Logger, message, reason string, fields ...zap.Field) {
	l.at(zap.InfoLevel, logger, message, reason, fields...)
}

// warn is for what an operator should look at.
func (l *onceLog) warn(logger *zap.Logger, message, reason string, fields ...zap.Field) {
	l.at(zap.WarnLevel, logger, message, reason, fields...)
}

func (l *onceLog) at(level zapcore.Level, logger *zap.Logger, message, reason string, fields ...zap.Field) {
	if _, seen := l.seen.LoadOrStore(reason, true); seen {
		level = zap.DebugLevel
	}
	if entry := logger.Check(level, message); entry != nil {
		entry.Write(append(fields, zap.String("reason", reason))...)
	}
}
