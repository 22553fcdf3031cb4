package ec2sim

import (
	"crypto/sha256"
	"maps"
	"time"
)

// tokenKey is where a client token counts: one action, and for RunInstances
// into a zone, that zone ("Ensuring idempotency in Amazon EC2 API requests").
type tokenKey struct{ action, scope, token string }

type tokenRecord struct {
	params [sha256.Size]byte
	at     time.Time
	answer any
	// instances are what the call launched.
	instances []*instance
}

// manyTokens is when those that are out of date are swept out.
const manyTokens = 10_000

// maxToken is the longest client token: 64 ASCII characters.
const maxToken = 64

// replay answers a call whose token has been seen: with the first answer when
// the parameters are the same, else with IdempotentParameterMismatch. It
// reports false for a new token.
func (s *Sim) replay(c *call, scope, token string) (any, bool, error) {
	if token == "" {
		return nil, false, nil
	}
	if len(token) > maxToken {
		return nil, false, invalidValue("ClientToken", token)
	}
	for _, r := range token {
		if r < 0x20 || r > 0x7e {
			return nil, false, invalidValue("ClientToken", token)
		}
	}
	key := tokenKey{c.action, scope, token}
	rec, ok := s.tokens[key]
	if !ok {
		return nil, false, nil
	}
	if c.now.Sub(rec.at) > s.cfg.TokenRetention {
		delete(s.tokens, key)
		return nil, false, nil
	}
	if rec.params != sha256.Sum256([]byte(c.params.Encode())) {
		return nil, false, errf("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).")
	}
	if err := c.commit(); err != nil {
		return nil, false, err
	}
	if c.action == "RunInstances" {
		for _, i := range rec.instances {
			if i.state >= stateShuttingDown {
				return nil, false, errf("IdempotentInstanceTerminated", "The client token '%s' is for instance %s, which has been terminated.", token, i.id)
			}
		}
	}
	return rec.answer, true, nil
}

// remember keeps the answer for the token.
func (s *Sim) remember(c *call, scope, token string, answer any, launched []*instance) {
	if token == "" {
		return
	}
	if len(s.tokens) >= manyTokens {
		maps.DeleteFunc(s.tokens, func(_ tokenKey, r *tokenRecord) bool { return c.now.Sub(r.at) > s.cfg.TokenRetention })
	}
	s.tokens[tokenKey{c.action, scope, token}] = &tokenRecord{sha256.Sum256([]byte(c.params.Encode())), c.now, answer, launched}
}
