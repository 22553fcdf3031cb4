package admission

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

const (
	// maxBody is the largest review that is read: two objects of the API
	// server's 3 MiB request limit and the envelope.
	maxBody = 7 << 20
	// maxBodies bounds what all bodies together take in memory.
	maxBodies = 48 << 20
	// firstRead is the buffer that a body begins with; it holds most pods.
	firstRead = 16 << 10
)

var (
	errTooLarge = fmt.Errorf("larger than %d bytes", maxBody)
	errNoRoom   = errors.New("too much is being read already")
)

// budget is an amount of memory that requests share.
type budget struct {
	left atomic.Int64
}

func newBudget(bytes int64) *budget {
	b := new(budget)
	b.left.Store(bytes)
	return b
}

func (b *budget) take(n int64) bool {
	if b.left.Add(-n) < 0 {
		b.left.Add(n)
		return false
	}
	return true
}

// readBody reads a body to its end. Memory is taken from the budget as bytes
// arrive, so that a sender who promises much and sends little takes little. The
// caller gives back taken, also after an error.
func (b *budget) readBody(r io.Reader, size int64) (body []byte, taken int64, err error) {
	if size > maxBody {
		return nil, 0, errTooLarge
	}
	n := int64(firstRead)
	if size >= 0 && size < n {
		n = size + 1 // One more, so that the end is seen without growing.
	}
	if !b.take(n) {
		return nil, 0, errNoRoom
	}
	taken = n
	buf := make([]byte, 0, n)
	for {
		if len(buf) == cap(buf) {
			more := int64(cap(buf))
			if int64(cap(buf))+more > maxBody {
				more = maxBody + 1 - int64(cap(buf))
			}
			if more <= 0 {
				return nil, taken, errTooLarge
			}
			if !b.take(more) {
				return buf, taken, errNoRoom
			}
			taken += more
			grown := make([]byte, len(buf), int64(cap(buf))+more)
			copy(grown, buf)
			buf = grown
		}
		m, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+m]
		if len(buf) > maxBody {
			return nil, taken, errTooLarge
		}
		if err == io.EOF {
			return buf, taken, nil
		}
		if err != nil {
			return nil, taken, err
		}
	}
}
