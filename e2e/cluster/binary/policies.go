package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// burst is how long changes are gathered before the rules are written anew.
const burst = 50 * time.Millisecond

// networkPolicies keeps a node's packet filter as the API server's NetworkPolicies
// want it, until it is told to end. It runs in the node's network namespace, once
// for each node. Where it can't write the rules it ends, so that nobody takes an
// open network for a guarded one.
func networkPolicies() int {
	flags := flag.NewFlagSet("network-policies", flag.ExitOnError) // others own the common one
	node := flags.String("node", "", "the node's name")
	kubeconfig := flags.String("kubeconfig", "", "whom to ask, and as whom")
	pods := flags.String("pod-range", "", "the addresses of the node's pods")
	_ = flags.Parse(os.Args[1:]) // it ends the program itself
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := enforce(ctx, *kubeconfig, *node, *pods); err != nil {
		fmt.Fprintln(os.Stderr, "network-policies:", err)
		return 1
	}
	return 0
}

func enforce(ctx context.Context, kubeconfig, node, pods string) error {
	addresses, err := netip.ParsePrefix(pods)
	if err != nil {
		return fmt.Errorf("--pod-range: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default: // somebody told already
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(lighter))
	podList := factory.Core().V1().Pods()
	namespaceList := factory.Core().V1().Namespaces()
	policyList := factory.Networking().V1().NetworkPolicies()
	for _, informer := range []cache.SharedIndexInformer{podList.Informer(), namespaceList.Informer(), policyList.Informer()} {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { tell() },
			UpdateFunc: func(any, any) { tell() },
			DeleteFunc: func(any) { tell() },
		})
		if err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("no list of %v", kind)
		}
	}
	written := ""
	for {
		seen := view{node: node, pods: addresses, namespaces: map[string]labels.Set{}}
		// What an informer has is there at once: its lister can't fail.
		seen.running, _ = podList.Lister().List(labels.Everything())
		seen.policies, _ = policyList.Lister().List(labels.Everything())
		namespaces, _ := namespaceList.Lister().List(labels.Everything())
		for _, it := range namespaces {
			seen.namespaces[it.Name] = it.Labels
		}
		rules, err := seen.rules()
		if err != nil {
			return err
		}
		if rules != written {
			if err := write(ctx, rules); err != nil {
				return err
			}
			fmt.Printf("%s rules of %d policies\n", time.Now().UTC().Format(time.RFC3339Nano), len(seen.policies))
			written = rules
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			time.Sleep(burst)
		}
	}
}

// lighter drops what no rule depends on.
func lighter(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
		accessor.SetAnnotations(nil)
	}
	return object, nil
}

// write replaces all rules at once.
func write(ctx context.Context, rules string) error {
	nft := exec.CommandContext(ctx, "nft", "-f", "-")
	nft.Stdin = strings.NewReader(rules)
	if said, err := nft.CombinedOutput(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("nft: %w: %s\n%s", err, said, rules)
	}
	return nil
}

// isolates tells whether a policy is about one direction.
func isolates(policy *networking.NetworkPolicy, direction networking.PolicyType) bool {
	for _, it := range policy.Spec.PolicyTypes {
		if it == direction {
			return true
		}
	}
	return false
}

// networked tells whether a pod has an address of its own in the cluster's network.
func networked(pod *core.Pod) bool {
	over := pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed
	return !over && !pod.Spec.HostNetwork && pod.Status.PodIP != ""
}
